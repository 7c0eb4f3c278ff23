"""Ablation without alignment: the initial persona answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eval.methods.agent import AgentMethod


@dataclass(frozen=True, kw_only=True)
class WithoutAlignment(AgentMethod):
    """PersonaAgent without alignment: it answers under its initial persona."""

    name: ClassVar[str] = "personaagent-alignment"
