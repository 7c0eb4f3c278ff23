"""Ablation without tools: the aligned persona answers in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eval.methods.personaagent import PersonaAgentMethod


@dataclass(frozen=True, kw_only=True)
class WithoutAction(PersonaAgentMethod):
    """PersonaAgent without actions: no tools, neither in alignment nor in answering."""

    name: ClassVar[str] = "personaagent-action"
    tools: bool = False
