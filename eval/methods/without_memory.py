"""Ablation: neither episodic nor semantic memory; the persona is aligned from an empty beginning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Subject
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

    def open(self, subject: Subject, learned: Mapping[str, Any]) -> PersonaAgent:
        """Return the user's agent, without a profile."""
        return self._agent(subject, _NOTHING, learned["persona"])

    def _profile(self, subject: Subject) -> Profile:
        return _NOTHING

    def _memory(self, subject: Subject) -> Memory:
        return NoMemory(subject.user_id)


_NOTHING = Profile(facts=Facts(interactions=0))
