"""Ablation: neither episodic nor semantic memory; the persona is aligned from an empty beginning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import UserView
from eval.methods.personaagent import Aligned
from program.agent import PersonaAgent
from program.memory.base import Before, Memory
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile


@dataclass(frozen=True)
class NoMemory:
    """A `program.memory.base.Memory` that remembers nothing, whatever ``before`` names."""

    user_id: str

    def __len__(self) -> int:
        return 0

    def search(
        self, query: str, k: int, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Find nothing."""
        return []

    def latest(
        self, n: int | None = None, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Find nothing."""
        return []


@dataclass(frozen=True, kw_only=True)
class WithoutMemory(Aligned):
    """PersonaAgent whose tools find nothing. The alignment batch is still the user's latest answers."""

    name: ClassVar[str] = "personaagent-memory"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> PersonaAgent:
        """Return the user's agent, without a profile."""
        return self._agent(user, _NOTHING, learned["persona"])

    def _profile(self, user: UserView) -> Profile:
        return _NOTHING

    def _memory(self, user: UserView) -> Memory:
        return NoMemory(user.user_id)


_NOTHING = Profile(facts=Facts(interactions=0))
