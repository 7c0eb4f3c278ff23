"""What the agent can do before it answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from program.tools.base import Tool, ToolContext
from program.tools.read_profile import read_profile
from program.tools.search_memory import search_memory
from program.tools.search_wikipedia import WikipediaSearch
from program.tools.toolset import Observation, ToolError, ToolSet

__all__ = ["Observation", "Tool", "ToolContext", "ToolError", "ToolSet", "WikipediaSearch", "default_tools"]


@cache
def default_tools(cache_dir: str | Path, *, wikipedia: bool = True) -> ToolSet:
    """Return the tools every agent starts with; one set for each setting and process.

    Args:
        cache_dir: Where Wikipedia's answers are kept; nothing is made there before the first search.
        wikipedia: Whether to add ``search_wikipedia``, which sends the agent's query off the machine.
    """
    tools = [Tool.of(search_memory), Tool.of(read_profile)]
    if wikipedia:
        tools.append(WikipediaSearch(cache_dir).tool)
    return ToolSet(tools)
