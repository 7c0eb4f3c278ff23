"""The agent of one user: one predictor whose instructions are the persona, and a tool loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from program.errors import ConfigError
from program.home import home
from program.loop import AgentSettings, Unreadable, run_loop
from program.memory.base import Before, Memory
from program.memory.semantic import Profile, count_facts
from program.models.adapter import program_adapter
from program.models.label_probabilities import decision_client, probabilities
from program.persona import initial_persona, validate_persona
from program.signatures import Act, conclusion
from program.spans import about, span
from program.sync import run_now
from program.task import Task
from program.tools import default_tools
from program.tools.base import ToolContext
from program.tools.toolset import Observation, ToolSet
from program.usage import reserve_call


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """What a stored user's agent is made of: what the store knows of the user now."""

    task: Task
    memory: Memory
    profile: Profile
    persona: str


@dataclass(frozen=True)
class AgentContext:
    """What an agent works with. Copies of a program share it; nothing here is learned.

    Attributes:
        task: What the user is asked.
        memory: The user's episodic memory.
        tools: The tools.
        profile: The user's semantic memory.
        settings: Limits and sizes.
        source: Reads the user's current state; ``None`` if the agent is not a stored user's.
    """

    task: Task
    memory: Memory
    tools: ToolSet
    profile: Profile
    settings: AgentSettings
    source: Callable[[], AgentState] | None = None

    def __deepcopy__(self, memo: object) -> AgentContext:
        return self

    def profile_at(self, before: Before) -> Profile:
        """Return the profile resting only on what came before ``before``."""
        if before is None:
            return self.profile
        return self.profile.seen_from(self.memory.latest(before=before), self.task.response_type)

    def tool_context(self, before: Before, exclude: Collection[str]) -> ToolContext:
        """Return what the tools may see while one query is answered."""
        return ToolContext(
            memory=self.memory,
            profile=self.profile_at,
            before=before,
            exclude=exclude,
            k=self.settings.k,
            max_chars=self.settings.item_chars,
            response_noun=self.task.response_noun,
        )


class PersonaAgent(dspy.Module):  # type: ignore[misc]
    """Answers queries as one user needs them answered (paper, section 2.1).

    The persona is ``act.signature.instructions``: the only text that DSPy's optimizers change and
    that `save` and `load` carry. Tools, task and steps are inputs of that predictor.
    """

    def __init__(
        self,
        *,
        task: Task,
        memory: Memory,
        persona: str,
        tools: ToolSet | None = None,
        profile: Profile | None = None,
        settings: AgentSettings | None = None,
    ) -> None:
        super().__init__()
        self.context = AgentContext(
            task=task,
            memory=memory,
            tools=default_tools(home() / "cache") if tools is None else tools,
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
        tools: ToolSet | None = None,
        *,
        task: Task,
        profile: Profile | None = None,
        persona: str | None = None,
        settings: AgentSettings | None = None,
    ) -> PersonaAgent:
        """Make a user's agent; without a ``persona`` it gets the initial one of its profile.

        Raises:
            ConfigError: The memory is another user's.
        """
        if memory.user_id != user:
            raise ConfigError("the memory belongs to another user than the agent")
        profile = profile or Profile(facts=count_facts(memory.latest(), task.response_type))
        text = persona if persona is not None else initial_persona(profile)
        return cls(task=task, memory=memory, persona=text, tools=tools, profile=profile, settings=settings)

    @classmethod
    def from_source(
        cls,
        source: Callable[[], AgentState],
        *,
        tools: ToolSet | None = None,
        settings: AgentSettings | None = None,
    ) -> PersonaAgent:
        """Make the agent of a user whose state ``source`` reads, so that `refresh` can read it again."""
        state = source()
        agent = cls(tools=tools, settings=settings, **vars(state))
        agent.context = replace(agent.context, source=source)
        return agent

    def refresh(self) -> None:
        """Take over what the store has learned since: new interactions, profile and persona.

        Raises:
            ConfigError: The agent was not opened with `open_session`.
        """
        if self.context.source is None:
            raise ConfigError("this agent has no store to refresh from; open it with `open_session`")
        state = self.context.source()
        self.context = replace(self.context, memory=state.memory, profile=state.profile)
        self.persona = state.persona

    def calls_per_answer(self) -> tuple[int, int]:
        """Return the fewest and most model calls of one answer with DSPy's configured model."""
        settings = self.context.settings
        if not self.context.tools.tools:
            return 1, 1
        return settings.min_actions + 1 + int(self._concludes_apart()), settings.max_steps + 1

    @property
    def persona(self) -> str:
        """The user's system prompt."""
        return str(self.act.signature.instructions)

    @persona.setter
    def persona(self, text: str) -> None:
        # Signatures are classes, shared by all copies of a program: rebind, never set in place.
        self.act.signature = self.act.signature.with_instructions(validate_persona(text))

    def forward(self, query: str, before: Before = None, exclude: Collection[str] = ()) -> dspy.Prediction:
        """Answer one query.

        Args:
            query: The query text, without the task's question.
            before: No tool may show anything at or after this (see `program.memory.base.Before`).
            exclude: Interaction ids no tool may show.

        Returns:
            A prediction with ``answer`` (text), ``steps`` (tuple of `program.loop.Step`) and
            ``probabilities`` (label to probability, or ``None`` where the model gives none).

        Raises:
            UnparsableAnswerError: The forced final answer did not fit the task's answer type.
            BudgetExceededError: A call would have passed the limit.
            dspy.LMError: The model failed; this is never turned into an answer.
        """
        return run_now(self._answer(query, before, exclude, wait=False))

    async def aforward(
        self, query: str, before: Before = None, exclude: Collection[str] = ()
    ) -> dspy.Prediction:
        """Answer one query; as `forward`."""
        return await self._answer(query, before, exclude, wait=True)

    async def _answer(
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
            with probabilities() as read:
                prediction = await self._predict({**inputs, "lm": decisions}, wait)
            prediction.probabilities = read()
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
                always_conclude=self._concludes_apart(),
            )
            trace.output(finished=result)
        return dspy.Prediction(answer=result.answer, steps=result.steps, probabilities=result.probabilities)

    def _concludes_apart(self) -> bool:
        """Whether the final answer is a call of its own: by setting, or since the model scores labels."""
        scores_labels = decision_client(dspy.settings.lm, self.context.task.answer) is not None
        return self.context.settings.conclude_apart or scores_labels

    async def _predict(self, inputs: Mapping[str, Any], wait: bool) -> Any:
        reserve_call()
        with span("predict", inputs=inputs) as trace:
            try:
                prediction = await self.act.acall(**inputs) if wait else self.act(**inputs)
            except AdapterParseError as error:
                prediction = Unreadable(str(error.lm_response))
            trace.output(prediction=prediction)
            return prediction
