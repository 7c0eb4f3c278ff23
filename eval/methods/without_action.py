"""Ablation without tools: the aligned persona answers in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eval.methods.personaagent import PersonaAgentMethod
from program.tools.toolset import ToolSet

_NO_TOOLS = ToolSet([])


@dataclass(frozen=True, kw_only=True)
class WithoutAction(PersonaAgentMethod):
    """PersonaAgent without actions: no tools, neither in alignment nor in answering."""

    name: ClassVar[str] = "personaagent-action"

    def _tools(self) -> ToolSet:
        return _NO_TOOLS
