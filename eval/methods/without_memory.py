"""Ablation without episodic and semantic memory: alignment starts from a persona without facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import UserView
from eval.methods.personaagent import PersonaAgentMethod
from eval.methods.profiles import EMPTY_PROFILE
from program.agent import PersonaAgent
from program.memory.base import Before, Memory
from program.memory.interaction import Interaction
from program.memory.semantic import Profile


@dataclass(frozen=True)
class NoMemory:
    """A `program.memory.base.Memory` that is always empty."""

    user_id: str

    def __len__(self) -> int:
        return 0

    def search(
        self, query: str, k: int, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return no interactions."""
        return []

    def latest(
        self, n: int | None = None, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return no interactions."""
        return []


@dataclass(frozen=True, kw_only=True)
class WithoutMemory(PersonaAgentMethod):
    """PersonaAgent without memory; its alignment still learns from the user's latest interactions."""

    name: ClassVar[str] = "personaagent-memory"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> PersonaAgent:
        """Return the user's agent with an empty profile."""
        return self._make_agent(user, EMPTY_PROFILE, learned["persona"])

    def _profile(self, user: UserView) -> Profile:
        return EMPTY_PROFILE

    def _memory(self, user: UserView) -> Memory:
        return NoMemory(user.user_id)
