"""`PersonaAgent`, a DSPy module: one predictor with the persona as instructions, and a tool loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from program.errors import ConfigError
from program.loop import AgentSettings, Unreadable, run_loop
from program.memory.base import Before, Memory
from program.memory.semantic import Profile, count_facts
from program.models.adapter import UnusableReply, program_adapter
from program.models.label_probabilities import decision_client, record_probabilities
from program.persona import initial_persona, validate_persona
from program.renamed import RenamedAttributes
from program.saved import check_saved, explain_load_errors, without_secrets, write_private
from program.signatures import Act, conclusion
from program.spans import about, span
from program.sync import run_now
from program.task import Task
from program.tools import Tools, make_tools
from program.tools.base import ToolContext
from program.tools.toolset import Observation, ToolSet
from program.usage import current_tracker, reserve_call, track_lm


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """The parts of an agent that change as a user's store grows."""

    task: Task
    memory: Memory
    profile: Profile
    persona: str


@dataclass(frozen=True)
class AgentContext:
    """Everything an agent uses besides its persona. Copies of an agent share it; optimizers never change it.

    Attributes:
        task: The user's task.
        memory: The user's episodic memory.
        tools: The tools.
        profile: The user's semantic memory.
        settings: Limits and sizes.
        source: Reads the user's current state from the store; ``None`` without a store.
    """

    task: Task
    memory: Memory
    tools: ToolSet
    profile: Profile
    settings: AgentSettings
    source: Callable[[], AgentState] | None = None

    def __deepcopy__(self, memo: object) -> AgentContext:
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A saved program has the state that it was saved with; it cannot carry an open store.
        return {**vars(self), "source": None}

    def profile_at(self, before: Before) -> Profile:
        """Return the profile of the interactions before ``before``."""
        if before is None:
            return self.profile
        return self.profile.restricted_to(self.memory.latest(before=before), self.task.response_type)

    def tool_context(self, before: Before, exclude: Collection[str]) -> ToolContext:
        """Return the context that the tools get for one query."""
        return ToolContext(
            memory=self.memory,
            profile=self.profile_at,
            before=before,
            exclude=exclude,
            k=self.settings.k,
            max_chars=self.settings.item_chars,
            response_noun=self.task.response_noun,
        )


class PersonaAgent(RenamedAttributes, dspy.Module):  # type: ignore[misc]
    """Answers queries for one user, with the user's persona, memory and tools (paper, section 2.1).

    The persona is ``act.signature.instructions``: the only text that DSPy optimizers change and that
    `save` and `load` carry. Task, tools and steps are inputs of the ``act`` predictor.

    Args:
        task: The user's task.
        memory: The user's past interactions.
        persona: The system prompt.
        tools: Functions or tools beside the default ones; a `ToolSet` replaces those.
        profile: The user's semantic memory; ``None`` counts it from ``memory``.
        settings: Limits of the tool loop.

    Raises:
        PersonaError: ``persona`` is empty or too long.

    Example:
        >>> from program import EpisodicMemory, Interaction, get_task, scripted_lm
        >>> past = [Interaction(id="1", user_id="ana", query="Dinner?", response="Lentils.")]
        >>> memory = EpisodicMemory("ana", past)
        >>> agent = PersonaAgent.for_user("ana", memory, ToolSet([]), task=get_task("free-text"))
        >>> with dspy.context(lm=scripted_lm(lambda system, user: "Lentils.")):
        ...     agent(query="And tomorrow?").answer
        'Lentils.'
    """

    _renamed: ClassVar[Mapping[str, str]] = {"surroundings": "context"}

    def __init__(
        self,
        *,
        task: Task,
        memory: Memory,
        persona: str,
        tools: Tools = None,
        profile: Profile | None = None,
        settings: AgentSettings | None = None,
    ) -> None:
        super().__init__()
        self.context = AgentContext(
            task=task,
            memory=memory,
            tools=make_tools(tools),
            profile=profile or Profile(facts=count_facts(memory.latest(), task.response_type)),
            settings=settings or AgentSettings(),
        )
        action = self.context.tools.action_type(task.answer.annotation)
        self.act = dspy.Predict(Act.with_updated_fields("action", type_=action))
        self.persona = persona

    @classmethod
    def for_user(
        cls,
        user: str,
        memory: Memory,
        tools: Tools = None,
        *,
        task: Task,
        profile: Profile | None = None,
        persona: str | None = None,
        settings: AgentSettings | None = None,
    ) -> PersonaAgent:
        """Return an agent for ``user``; without a ``persona`` it starts from `initial_persona`.

        Raises:
            ConfigError: ``memory`` belongs to another user.
            PersonaError: ``persona`` is empty or too long.
        """
        if memory.user_id != user:
            raise ConfigError(f"`memory` belongs to user {memory.user_id!r}, not to {user!r}")
        profile = profile or Profile(facts=count_facts(memory.latest(), task.response_type))
        text = persona if persona is not None else initial_persona(profile)
        return cls(task=task, memory=memory, persona=text, tools=tools, profile=profile, settings=settings)

    @classmethod
    def from_source(
        cls,
        source: Callable[[], AgentState],
        *,
        tools: Tools = None,
        settings: AgentSettings | None = None,
    ) -> PersonaAgent:
        """Return an agent with the state that ``source`` reads; `refresh` reads it again."""
        state = source()
        agent = cls(tools=tools, settings=settings, **vars(state))
        agent.context = replace(agent.context, source=source)
        return agent

    def __copy__(self) -> PersonaAgent:
        """Return an agent with a predictor of its own; everything else is shared."""
        copied: PersonaAgent = object.__new__(type(self))
        copied.__dict__.update(vars(self), act=copy(self.act), callbacks=list(self.callbacks), history=[])
        copied._own_signature()
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._own_signature()

    def _own_signature(self) -> None:
        # InferRules writes into the signature class, which a copy would share.
        self.act.signature = self.act.signature.with_instructions(self.persona)

    def refresh(self) -> None:
        """Reload interactions, profile and persona from the store.

        Raises:
            ConfigError: The agent was not opened with `open_session`.
        """
        if self.context.source is None:
            raise ConfigError("this agent has no store to refresh from; use `open_session`")
        state = self.context.source()
        self.context = replace(self.context, memory=state.memory, profile=state.profile)
        self.persona = state.persona

    def save(
        self, path: str | Path, save_program: bool = False, modules_to_serialize: list[Any] | None = None
    ) -> None:
        """Save the persona, or the whole program, as `dspy.Module.save` does.

        Files are replaced in one step and only their owner can read them. Of a model they have the name,
        the sampling settings and the address, but no keys and no headers.
        """
        bare = copy(self)
        bare.act.lm = without_secrets(self.act.lm)
        path = Path(path)

        def write(part: Path) -> None:
            super(PersonaAgent, bare).save(part, save_program, modules_to_serialize)

        if save_program:
            write(path)
            path.chmod(0o700)
            for file in (path / "program.pkl", path / "metadata.json"):
                file.chmod(0o600)
        elif path.suffix in (".json", ".pkl"):
            write_private(path, write)
        else:
            write(path)

    def load(self, path: str | Path, allow_pickle: bool = False, allow_unsafe_lm_state: bool = False) -> None:
        """Load a persona that `save` wrote, as `dspy.Module.load` does.

        Raises:
            DataError: The file is missing, damaged, or not a program of this kind; the agent is unchanged.
        """
        path = Path(path)
        if path.suffix == ".json":
            check_saved(path, len(self.act.signature.fields))
        elif path.suffix != ".pkl" or not allow_pickle:
            # DSPy says how to name the file, or which argument a pickle needs.
            super().load(path, allow_pickle, allow_unsafe_lm_state)
            return
        with explain_load_errors(path):
            super().load(path, allow_pickle, allow_unsafe_lm_state)

    def calls_per_answer(self) -> tuple[int, int]:
        """Return the fewest and most model calls per answer, with DSPy's configured model."""
        settings = self.context.settings
        if not self.context.tools.tools:
            return 1, 1
        return settings.min_actions + 1 + int(self._always_concludes()), settings.max_steps + 1

    @property
    def persona(self) -> str:
        """The user's system prompt."""
        return str(self.act.signature.instructions)

    @persona.setter
    def persona(self, text: str) -> None:
        # Copies of an agent share the signature class: rebind it, never change it in place.
        self.act.signature = self.act.signature.with_instructions(validate_persona(text))

    def forward(self, query: str, before: Before = None, exclude: Collection[str] = ()) -> dspy.Prediction:
        """Answer one query.

        Args:
            query: The query text, without the task's question.
            before: Tools show only interactions before this (see `program.memory.base.Before`).
            exclude: Ids of interactions that no tool shows.

        Returns:
            A prediction with ``answer`` (text), ``steps`` (tuple of `program.loop.Step`) and
            ``probabilities`` (label to probability, or ``None`` if the model does not provide them).

        Raises:
            UnparsableAnswerError: The final answer does not fit the task's answer type, or the model
                gave none (its attribute ``unusable``).
            BudgetExceededError: A model call would exceed the budget.
            dspy.LMError: The model failed.
        """
        return run_now(self._answer(query, before, exclude, wait=False))

    async def aforward(
        self, query: str, before: Before = None, exclude: Collection[str] = ()
    ) -> dspy.Prediction:
        """Answer one query like `forward`, without blocking the event loop."""
        return await self._answer(query, before, exclude, wait=True)

    async def _answer(
        self, query: str, before: Before, exclude: Collection[str], *, wait: bool
    ) -> dspy.Prediction:
        with _configured(self.act.lm):
            return await self._answer_with_model(query, before, exclude, wait=wait)

    async def _answer_with_model(
        self, query: str, before: Before, exclude: Collection[str], *, wait: bool
    ) -> dspy.Prediction:
        context = self.context
        tool_context = context.tool_context(before, exclude)
        fixed = {"task": context.task.question, "query": query}
        decisions = decision_client(dspy.settings.lm, context.task.answer)

        async def think(steps: str) -> Any:
            return await self._predict({**fixed, "tools": context.tools.render(), "steps": steps}, wait)

        async def conclude(steps: str) -> Any:
            signature = conclusion(self.persona, context.task.answer)
            inputs = {**fixed, "steps": steps, "signature": signature}
            if decisions is None:
                return await self._predict(inputs, wait)
            with record_probabilities() as read_probabilities:
                prediction = await self._predict({**inputs, "lm": decisions}, wait)
            prediction.probabilities = read_probabilities()
            return prediction

        async def use(action: Any) -> Observation:
            with span("tool", action=action) as trace:
                if wait:
                    observation = await context.tools.arun(action, tool_context)
                else:
                    observation = context.tools.run(action, tool_context)
                trace.output(observation=observation)
                return observation

        user = about(user_id=context.memory.user_id)
        with user, span("agent", query=query) as trace, program_adapter():
            result = await run_loop(
                query,
                tools=context.tools,
                answer_type=context.task.answer,
                settings=context.settings,
                think=think,
                use=use,
                conclude=conclude,
                always_conclude=self._always_concludes(),
            )
            trace.output(finished=result)
        return dspy.Prediction(answer=result.answer, steps=result.steps, probabilities=result.probabilities)

    def _always_concludes(self) -> bool:
        """Whether the final answer takes a separate call: by setting, or because the model scores labels."""
        scores_labels = decision_client(dspy.settings.lm, self.context.task.answer) is not None
        return self.context.settings.conclude_apart or scores_labels

    async def _predict(self, inputs: Mapping[str, Any], wait: bool) -> Any:
        reserve_call()
        arguments = inputs if self.act.lm is None else {"lm": dspy.settings.lm, **inputs}
        with span("predict", inputs=inputs) as trace:
            try:
                prediction = await self.act.acall(**arguments) if wait else self.act(**arguments)
            except UnusableReply as error:
                prediction = Unreadable("", unusable=error.reason)
            except AdapterParseError as error:
                prediction = Unreadable(str(error.lm_response))
            trace.output(prediction=prediction)
            return prediction


@contextmanager
def _configured(lm: Any) -> Iterator[None]:
    """Use a model that was set on the agent (`dspy.Module.set_lm`) as the configured one: it is counted."""
    if lm is None:
        yield
        return
    tracker = current_tracker()
    with dspy.context(lm=lm if tracker is None else track_lm(lm, tracker)):
        yield
