"""What all methods share that let a `PersonaAgent` answer: one agent for each user, one persona."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import plain
from eval.methods.profiles import plain_profile, profile_from
from eval.methods.retrieval import check_retrieval, memory_of
from optimizers.trainset import examples
from program.agent import PersonaAgent
from program.errors import UnparsableAnswerError
from program.home import home
from program.loop import AgentSettings
from program.memory.base import Memory
from program.memory.semantic import Profile
from program.memory.summary import build_profile
from program.persona import initial_persona
from program.task import Task
from program.tools import default_tools
from program.tools.toolset import ToolSet


@dataclass(frozen=True, kw_only=True)
class AgentMethod(BaseMethod):
    """The agent under the persona that its user's profile gives; what to do with it is `_learn`'s.

    An ablation or an optimizer replaces one of the small methods below and nothing else.

    Attributes:
        k: Interactions returned by one memory search.
        max_steps: Most steps of the agent before it must answer.
        min_actions: Fewest tool calls before an answer counts.
        retrieval: How the memory is searched.
        prose: Whether the profile has a model's summary beside its counts; None: unless the model is
            known to invent.
        wikipedia: Whether the agent may search Wikipedia; its search words then leave the machine.
        item_chars: Longest text shown of one interaction, in characters.
    """

    k: int = AgentSettings.k
    max_steps: int = AgentSettings.max_steps
    min_actions: int = AgentSettings.min_actions
    retrieval: str = "bm25"
    prose: bool | None = None
    wikipedia: bool = False
    item_chars: int = AgentSettings.item_chars

    def __post_init__(self) -> None:
        check_retrieval(self.k, self.retrieval, self.item_chars)
        self._settings()

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Summarise the history, write the first persona, improve it."""
        profile = self._profile(user)
        agent = self._agent(user, profile, self._first_persona(profile))
        trainset = examples(memory_of(user), user.task, seed=user.seed)
        learned = {"profile": plain_profile(profile), "persona_initial": agent.persona}
        found = self._learn(agent, trainset, user) if trainset else {}
        return {"persona": agent.persona, **learned, **found}

    def open(self, user: UserView, learned: Mapping[str, Any]) -> PersonaAgent:
        """Return the user's agent under the persona it ended with."""
        return self._agent(user, profile_from(learned["profile"], user), learned["persona"])

    def answer(self, prepared: PersonaAgent, query: Query) -> Answer:
        """Let the agent answer."""
        try:
            said = prepared(query=query.text)
        except UnparsableAnswerError as error:
            return Answer(text=error.raw, valid=False)
        return Answer(text=said.answer, steps=plain(said.steps), probabilities=said.probabilities)

    def _learn(self, agent: PersonaAgent, trainset: Sequence[dspy.Example], user: UserView) -> dict[str, Any]:
        """Return the ``persona`` that is better than the agent's, and how it came about."""
        return {}

    def _profile(self, user: UserView) -> Profile:
        return build_profile(memory_of(user), user.task, prose=self.prose)

    def _first_persona(self, profile: Profile) -> str:
        return initial_persona(profile)

    def _memory(self, user: UserView) -> Memory:
        return memory_of(user, self.retrieval)

    def _tools(self) -> ToolSet:
        return default_tools(home() / "cache", wikipedia=self.wikipedia)

    def _agent(self, user: UserView, profile: Profile, persona: str) -> PersonaAgent:
        return PersonaAgent.for_user(
            user.user_id,
            self._memory(user),
            self._tools(),
            task=user.task,
            profile=profile,
            persona=persona,
            settings=self._settings(),
        )

    def _settings(self) -> AgentSettings:
        # Every method answers the same question: an answer inside a step has no hint of its type.
        return AgentSettings(
            max_steps=self.max_steps,
            min_actions=self.min_actions,
            k=self.k,
            item_chars=self.item_chars,
            conclude_apart=True,
        )


@dataclass(frozen=True, kw_only=True)
class LearningMethod(AgentMethod):
    """An agent whose persona is rewritten by a model, its own or a stronger one.

    Attributes:
        prompt_model: The model of feedback and proposals, as for ``--model``; empty: the agent's.
    """

    prompt_model: str = ""

    def check(self, task: Task) -> None:
        """Accept every task, with a prompt model that can be had."""
        self._model_of_prompts(seed=0)

    def _model_of_prompts(self, seed: int) -> Any:
        """Return the prompt model; ``None``: the agent's."""
        if not self.prompt_model:
            return None
        from program.models.resolve import resolve_lm, with_seed

        return with_seed(resolve_lm(self.prompt_model), seed)
