"""The tool `read_profile`."""

from __future__ import annotations

from program.memory.semantic import render
from program.tools.base import ToolContext


def read_profile(context: ToolContext) -> str:
    """Read what is known about this user: exact counts over the history, then a summary."""
    return render(context.profile(context.before))
