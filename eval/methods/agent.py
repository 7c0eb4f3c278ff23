"""Methods that answer with a `PersonaAgent`: one agent and one persona for each user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import steps_as_dicts
from eval.methods.profiles import profile_as_dict, restore_profile
from eval.methods.retrieval import check_retrieval, make_memory
from optimizers.trainset import examples
from program.agent import PersonaAgent
from program.errors import ConfigError, UnparsableAnswerError
from program.home import home
from program.loop import PAPER_ACTIONS, AgentSettings
from program.memory.base import Memory
from program.memory.semantic import Profile
from program.memory.summary import build_profile
from program.persona import Persona, first_persona, initial_persona
from program.task import Task
from program.tools import default_tools
from program.tools.toolset import ToolSet


def persona_as_dict(agent: PersonaAgent) -> dict[str, Any]:
    """Return the agent's persona as JSON data: the text, and its parts, ``None`` if it has none."""
    return {"persona": agent.persona, "parts": agent.parts.as_dict() if agent.parts else None}


@dataclass(frozen=True, kw_only=True)
class AgentMethod(BaseMethod):
    """An agent under the persona that a user begins with.

    Ablations and optimizers override one of the small methods below.

    Attributes:
        k: Interactions returned by one memory search.
        max_steps: Most tool calls before the final answer is requested.
        min_actions: Fewest tool calls before an answer is accepted.
        retrieval: How the memory is searched: hybrid, bm25, static, dense or recency.
        prose: Whether a model adds a summary to the profile's counts; ``None``: unless the model's
            summaries are known to be unreliable.
        tools: Whether the agent has tools; without them the persona alone answers, in one call.
        wikipedia: Whether the agent may search Wikipedia; its search words leave the machine.
        item_chars: Most characters shown of one interaction.
        max_input_chars: Most characters of one text that profile and feedback are written from.
        history: The form of shown interactions in the final question: examples or findings.
        last: Which example stands next to the query: similar or newest.
        search_first: Search memory with the query before the model's first step (see
            `program.loop.AgentSettings`).
        start: The persona that a user begins with: profile, the paper's with the user's profile filled in,
            or bare, a role and rules to which facts and lines can be added.
        persona_of: Whose persona answers: self, or other, a control that shows whether a persona helps
            because it is this user's.
    """

    k: int = AgentSettings.k
    max_steps: int = AgentSettings.max_steps
    min_actions: int = PAPER_ACTIONS
    retrieval: str = "hybrid"
    prose: bool | None = None
    tools: bool = True
    wikipedia: bool = False
    item_chars: int = AgentSettings.item_chars
    max_input_chars: int = AgentSettings.max_input_chars
    history: str = AgentSettings.history
    last: str = AgentSettings.last
    search_first: bool | None = AgentSettings.search_first
    start: str = "profile"
    persona_of: str = "self"

    def __post_init__(self) -> None:
        for name, values in (("start", ("profile", "bare")), ("persona_of", ("self", "other"))):
            if getattr(self, name) not in values:
                raise ConfigError(f"`{name}` must be {' or '.join(values)}, got {getattr(self, name)!r}")
        check_retrieval(self.retrieval)
        self._agent_settings()

    @property
    def learns_from_other(self) -> bool:
        """Whether `prepare` gets the view of another user."""
        return self.persona_of == "other"

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Summarise the history, write the initial persona and optimize it."""
        profile = self._profile(user)
        agent = self._make_agent(user, profile, self._initial_persona(profile))
        trainset = examples(make_memory(user), user.task, seed=user.seed)
        optimized = self._optimize(agent, trainset, user) if trainset else {}
        return {
            **persona_as_dict(agent),
            "profile": profile_as_dict(profile),
            "persona_initial": agent.persona,
            **optimized,
        }

    def open(self, user: UserView, learned: Mapping[str, Any]) -> PersonaAgent:
        """Return the user's agent under the final persona."""
        if self.learns_from_other:
            # The text: facts of its parts would be counted in this user's history.
            return self._make_agent(user, None, learned["persona"])
        persona = Persona.from_dict(learned["parts"]) if learned.get("parts") else learned["persona"]
        return self._make_agent(user, restore_profile(learned["profile"], user), persona)

    def answer(self, prepared: PersonaAgent, query: Query) -> Answer:
        """Run the agent on the query; an unparsable answer is kept as invalid."""
        try:
            prediction = prepared(query=query.text)
        except UnparsableAnswerError as error:
            if error.unusable:
                raise
            return Answer(text=error.raw, valid=False)
        return Answer(
            text=prediction.answer,
            steps=steps_as_dicts(prediction.steps),
            probabilities=prediction.probabilities,
        )

    def _optimize(
        self, agent: PersonaAgent, trainset: Sequence[dspy.Example], user: UserView
    ) -> dict[str, Any]:
        """Return what an optimizer adds to the stored state; its ``persona`` replaces the initial one.

        Args:
            agent: The agent under the initial persona; do not change it.
            trainset: The user's interactions, oldest first; not empty.
            user: The user.
        """
        return {}

    def _profile(self, user: UserView) -> Profile:
        return build_profile(
            make_memory(user), user.task, prose=self.prose, max_input_chars=self.max_input_chars
        )

    def _initial_persona(self, profile: Profile) -> str | Persona:
        return first_persona() if self.start == "bare" else initial_persona(profile)

    def _memory(self, user: UserView) -> Memory:
        return make_memory(user, self.retrieval)

    def _tools(self) -> ToolSet:
        return default_tools(home() / "cache", wikipedia=self.wikipedia) if self.tools else ToolSet([])

    def _make_agent(self, user: UserView, profile: Profile | None, persona: str | Persona) -> PersonaAgent:
        return PersonaAgent.for_user(
            user.user_id,
            self._memory(user),
            self._tools(),
            task=user.task,
            profile=profile,
            persona=persona,
            settings=self._agent_settings(),
        )

    def _agent_settings(self) -> AgentSettings:
        # The other methods request the answer with its type and hint, which an agent's step lacks.
        return AgentSettings(
            max_steps=self.max_steps,
            min_actions=self.min_actions,
            k=self.k,
            item_chars=self.item_chars,
            max_input_chars=self.max_input_chars,
            history=self.history,
            last=self.last,
            search_first=self.search_first,
            conclude_apart=True,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizedAgentMethod(AgentMethod):
    """An agent whose persona is rewritten by a model.

    Attributes:
        prompt_model: The model of feedback and proposals, named as for ``--model``; empty: the model
            that answers.
    """

    prompt_model: str = ""

    def check(self, task: Task) -> None:
        """Accept every task if the prompt model can be loaded."""
        self._load_prompt_model(seed=0)

    def _load_prompt_model(self, seed: int) -> Any:
        """Return the prompt model; ``None`` means the model that answers."""
        if not self.prompt_model:
            return None
        from program.models.resolve import resolve_lm, with_seed

        return with_seed(resolve_lm(self.prompt_model), seed)
