"""Tools that the agent calls before it answers."""

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
    """Return the default tools; equal arguments return the same object.

    Args:
        cache_dir: Folder for the cache of Wikipedia; the first search creates it.
        wikipedia: Whether to add ``search_wikipedia``, which sends the agent's query off the machine.

    Example:
        >>> list(default_tools("cache", wikipedia=False).tools)
        ['search_memory', 'read_profile']
    """
    tools = [Tool.of(search_memory), Tool.of(read_profile)]
    if wikipedia:
        tools.append(WikipediaSearch(cache_dir).tool)
    return ToolSet(tools)
