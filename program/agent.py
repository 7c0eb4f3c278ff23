"""`PersonaAgent`, a DSPy module: one predictor with the persona as instructions, and a tool loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from program.answers import Text
from program.context import AgentContext, AgentState
from program.errors import ConfigError
from program.final_question import FinalQuestion, can_be_examples, final_question
from program.loop import AgentSettings, LoopSettings, Step, Unreadable, run_loop
from program.memory.base import Before, Memory
from program.memory.interaction import Interaction
from program.memory.semantic import Profile, count_facts
from program.models.adapter import UnusableReply, adapter_for, program_adapter
from program.models.label_probabilities import (
    TextScorer,
    decision_client,
    record_probabilities,
    text_scorer,
)
from program.persona import Persona, initial_persona, validate_persona
from program.renamed import RenamedAttributes
from program.saved import check_saved, explain_load_errors, without_secrets, write_private
from program.signatures import acting, own_class, with_instructions
from program.spans import about, span
from program.sync import run_now
from program.task import Task
from program.tools import Tools, make_tools
from program.tools.base import ToolContext
from program.tools.toolset import Observation
from program.usage import current_tracker, reserve_call, track_lm


class PersonaAgent(RenamedAttributes, dspy.Module):  # type: ignore[misc]
    """Answers queries for one user, with the user's persona, memory and tools (paper, section 2.1).

    The persona is ``act.signature.instructions``: the only text that DSPy optimizers change and that
    `save` and `load` carry. Task, tools and steps are inputs of the ``act`` predictor.

    Args:
        task: The user's task.
        memory: The user's past interactions.
        persona: The system prompt: a text, or parts (`program.persona.Persona`) of which the facts are
            counted again for every prompt, from what may be seen then.
        tools: Functions or tools beside the default ones; a `ToolSet` replaces those.
        profile: The user's semantic memory; ``None`` counts it from ``memory``.
        settings: Limits of the tool loop.

    Raises:
        PersonaError: ``persona`` is empty or too long.

    Example:
        >>> from program import EpisodicMemory, Interaction, ToolSet, get_task, scripted_lm
        >>> past = [Interaction(id="1", user_id="ana", query="Dinner?", response="Lentils.")]
        >>> memory = EpisodicMemory("ana", past)
        >>> agent = PersonaAgent.for_user("ana", memory, ToolSet([]), task=get_task("free-text"))
        >>> with dspy.context(lm=scripted_lm(lambda system, user: "Lentils.")):
        ...     agent(query="And tomorrow?").answer
        'Lentils.'
    """

    _renamed: ClassVar[Mapping[str, str]] = {"surroundings": "context"}
    # A persona's text and its parts; they are of no use once an optimizer has rewritten the text.
    _parts: tuple[str, Persona] | None = None

    def __init__(
        self,
        *,
        task: Task,
        memory: Memory,
        persona: str | Persona,
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
        self.act = dspy.Predict(acting(action))
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
        persona: str | Persona | None = None,
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
        self.act.signature = own_class(self.act.signature, self.persona)

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

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Return the state that `save` writes: the predictor's, and the persona's parts if it has some."""
        state: dict[str, Any] = super().dump_state(json_mode=json_mode)
        return state if self.parts is None else {**state, "parts": self.parts.as_dict()}

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> None:
        """Restore what `dump_state` returned."""
        parts = Persona.from_dict(state["parts"]) if "parts" in state else None
        super().load_state(state, allow_unsafe_lm_state=allow_unsafe_lm_state)
        self._parts = (self.persona, parts) if parts is not None else None

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
        settings = self._settings()
        answers_at_once = settings.search_first and not getattr(dspy.settings.lm, "uses_tools", True)
        if not self.context.tools.tools or answers_at_once:
            return 1, 1
        return settings.min_actions + 1 + int(self._always_concludes()), settings.max_steps + 1

    def calls_per_score(self) -> int:
        """Return the model calls that score a true answer: 1 for a text that DSPy's model can score, else 0.

        The call that answers with a label scores all labels.
        """
        return int(isinstance(self.context.task.answer, Text) and text_scorer(dspy.settings.lm) is not None)

    @property
    def persona(self) -> str:
        """The user's system prompt; assign a text, or parts of which it is the text as of now."""
        return str(self.act.signature.instructions)

    @persona.setter
    def persona(self, persona: str | Persona) -> None:
        text = persona.render(self.context.evidence_at(None, ())) if isinstance(persona, Persona) else persona
        # Copies of an agent share the signature class: rebind it, never change it in place.
        self.act.signature = own_class(self.act.signature, validate_persona(text))
        self._parts = (self.persona, persona) if isinstance(persona, Persona) else None

    @property
    def parts(self) -> Persona | None:
        """The parts of the persona; ``None`` if its text was written freely, by a person or a model."""
        if self._parts is None or self._parts[0] != self.persona:
            return None
        return self._parts[1]

    def prompt(self, before: Before = None, exclude: Collection[str] = ()) -> str:
        """Return the persona as the model reads it, with facts of the interactions before ``before``."""
        parts = self.parts
        return self.persona if parts is None else parts.render(self.context.evidence_at(before, exclude))

    def forward(
        self,
        query: str,
        before: Before = None,
        exclude: Collection[str] = (),
        *,
        truth: str | None = None,
        steps: Sequence[Step] | None = None,
    ) -> dspy.Prediction:
        """Answer one query.

        Args:
            query: The query text, without the task's question.
            before: Only interactions before this are seen (see `program.memory.base.Before`): by tools
                and in the persona's facts.
            exclude: Ids of interactions that are not seen.
            truth: The user's true response, to score: it reaches no prompt that an answer comes from.
            steps: Steps of an earlier answer to conclude from, instead of new tool calls.

        Returns:
            A prediction with ``answer`` (text), ``steps`` (tuple of `program.loop.Step`),
            ``probabilities`` (label to probability, or ``None`` if the model does not provide them) and
            ``likelihood`` (of ``truth``, in [0, 1]: the probability of a label, or the mean one of a
            text's tokens; ``None`` without ``truth`` or if the model provides none).

        Raises:
            UnparsableAnswerError: The final answer does not fit the task's answer type, or the model
                gave none (its attribute ``unusable``).
            BudgetExceededError: A model call would exceed the budget.
            dspy.LMError: The model failed.
        """
        return run_now(self._answer(_Request(query, before, exclude, truth, steps), wait=False))

    async def aforward(
        self,
        query: str,
        before: Before = None,
        exclude: Collection[str] = (),
        *,
        truth: str | None = None,
        steps: Sequence[Step] | None = None,
    ) -> dspy.Prediction:
        """Answer one query like `forward`, without blocking the event loop."""
        return await self._answer(_Request(query, before, exclude, truth, steps), wait=True)

    async def _answer(self, request: _Request, *, wait: bool) -> dspy.Prediction:
        with _configured(self.act.lm):
            return await self._answer_with_model(request, wait=wait)

    async def _answer_with_model(self, request: _Request, *, wait: bool) -> dspy.Prediction:
        context = self.context
        tool_context = context.tool_context(request.before, request.exclude)
        persona = self.prompt(request.before, request.exclude)
        fixed: dict[str, Any] = {"task": context.task.question, "query": request.query}
        if persona != self.persona:
            fixed["signature"] = with_instructions(self.act.signature, persona)

        async def think(steps: str) -> Any:
            return await self._predict({**fixed, "tools": context.tools.render(), "steps": steps}, wait)

        async def conclude(steps: Sequence[Step]) -> Any:
            question = final_question(
                persona,
                context.task,
                request.query,
                steps=steps,
                shown=self._shown(request, steps, tool_context),
                settings=context.settings,
            )
            return await self._conclude(question, request.truth, wait)

        async def use(action: Any) -> Observation:
            with span("tool", action=action) as trace:
                if wait:
                    observation = await context.tools.arun(action, tool_context)
                else:
                    observation = context.tools.run(action, tool_context)
                trace.output(observation=observation)
                return observation

        user = about(user_id=context.memory.user_id)
        with user, span("agent", query=request.query) as trace, program_adapter():
            result = await run_loop(
                request.query,
                tools=context.tools,
                answer_type=context.task.answer,
                settings=self._settings(),
                think=think,
                use=use,
                conclude=conclude,
                always_conclude=self._always_concludes(),
                uses_tools=getattr(dspy.settings.lm, "uses_tools", True),
                steps=request.steps,
            )
            trace.output(finished=result)
        return dspy.Prediction(
            answer=result.answer,
            steps=result.steps,
            probabilities=result.probabilities,
            likelihood=result.likelihood,
        )

    def _shown(
        self, request: _Request, steps: Sequence[Step], tool_context: ToolContext
    ) -> dict[str, Interaction]:
        """Return the interactions that the steps may show, by id; in time order if the newest stands last."""
        if request.steps is None and self.context.settings.last == "similar":
            return {item.id: item for item in tool_context.shown}
        seen = {interaction_id for step in steps for interaction_id in step.interaction_ids}
        visible = self.context.memory.latest(before=request.before, exclude=request.exclude)
        return {item.id: item for item in visible if item.id in seen}

    async def _conclude(self, question: FinalQuestion, truth: str | None, wait: bool) -> Any:
        """Return a prediction with ``answer``, and with ``probabilities`` and ``likelihood`` if possible."""
        lm, answer_type = dspy.settings.lm, self.context.task.answer
        decisions = decision_client(lm, answer_type)
        if decisions is not None:
            with record_probabilities() as read_probabilities:
                prediction = await self._predict({**question.arguments(), "lm": decisions}, wait)
            prediction.probabilities = read_probabilities()
            if truth is not None and prediction.probabilities is not None:
                prediction.likelihood = prediction.probabilities.get(truth)
            return prediction
        prediction = await self._predict(question.arguments(), wait)
        scorer = text_scorer(lm) if truth is not None and isinstance(answer_type, Text) else None
        if scorer is not None and not isinstance(prediction, Unreadable):
            prediction.likelihood = await self._text_likelihood(scorer, question, str(truth), wait)
        return prediction

    async def _text_likelihood(
        self, scorer: TextScorer, question: FinalQuestion, truth: str, wait: bool
    ) -> float | None:
        if not truth.strip():
            return None
        reserve_call()
        messages = adapter_for(dspy.settings.lm).format(
            question.signature, list(question.demos), dict(question.inputs)
        )
        if wait:
            score = await scorer.atext_likelihood(messages, truth)
        else:
            score = scorer.text_likelihood(messages, truth)
        return math.exp(score.mean)

    def _settings(self) -> LoopSettings:
        return self.context.settings.for_persona(has_parts=self.parts is not None)

    def _always_concludes(self) -> bool:
        """Whether the final answer takes a separate call.

        It does by setting, if the model scores labels, and if a first search gives examples.
        """
        settings, task = self.context.settings, self.context.task
        gives_examples = (
            self._settings().search_first and settings.history == "examples" and can_be_examples(task)
        )
        scores_labels = decision_client(dspy.settings.lm, task.answer) is not None
        return settings.conclude_apart or scores_labels or bool(gives_examples)

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


@dataclass(frozen=True)
class _Request:
    """The arguments of one answer (see `PersonaAgent.forward`)."""

    query: str
    before: Before
    exclude: Collection[str]
    truth: str | None
    steps: Sequence[Step] | None


@contextmanager
def _configured(lm: Any) -> Iterator[None]:
    """Use a model that was set on the agent (`dspy.Module.set_lm`) as the configured one: it is counted."""
    if lm is None:
        yield
        return
    tracker = current_tracker()
    with dspy.context(lm=lm if tracker is None else track_lm(lm, tracker)):
        yield
