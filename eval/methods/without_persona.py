"""Ablation without a persona: a generic system prompt, so there is nothing to align."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eval.methods.agent import AgentMethod
from program.memory.semantic import Profile
from program.persona import GENERIC


@dataclass(frozen=True, kw_only=True)
class WithoutPersona(AgentMethod):
    """PersonaAgent without a persona: its tools and memory under a generic system prompt."""

    name: ClassVar[str] = "personaagent-persona"

    def _initial_persona(self, profile: Profile) -> str:
        return GENERIC
