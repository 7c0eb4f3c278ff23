"""Tools that the agent calls before it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from program.errors import ConfigError
from program.home import home
from program.tools.base import Tool, ToolContext
from program.tools.read_profile import read_profile
from program.tools.search_memory import search_memory
from program.tools.search_wikipedia import WikipediaSearch
from program.tools.toolset import Observation, ToolError, ToolSet

__all__ = [
    "Observation",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolSet",
    "Tools",
    "WikipediaSearch",
    "default_tools",
    "make_tools",
]


def default_tools(cache_dir: str | Path | None = None, *, wikipedia: bool = True) -> ToolSet:
    """Return the default tools; equal arguments return the same object.

    Args:
        cache_dir: Folder for the cache of Wikipedia, which the first search creates; ``None`` for
            ``cache`` in the data directory.
        wikipedia: Whether to add ``search_wikipedia``, which sends the agent's query off the machine.

    Example:
        >>> list(default_tools("cache", wikipedia=False).tools)
        ['search_memory', 'read_profile']
    """
    return _default_tools(str(home() / "cache" if cache_dir is None else cache_dir), wikipedia)


@cache
def _default_tools(cache_dir: str, wikipedia: bool) -> ToolSet:
    tools = [Tool.of(search_memory), Tool.of(read_profile)]
    if wikipedia:
        tools.append(WikipediaSearch(cache_dir).tool)
    return ToolSet(tools)


Tools = ToolSet | Sequence[Tool | Callable[..., Any]] | None
"""An agent's tools, as callers give them: a set replaces the default tools, a list adds to them."""


def make_tools(tools: Tools, cache_dir: str | Path | None = None, *, wikipedia: bool = True) -> ToolSet:
    """Return the tools of an agent.

    Args:
        tools: A `ToolSet` is returned as it is; functions or tools in a list come after the default
            ones; ``None`` is the default tools.
        cache_dir: See `default_tools`.
        wikipedia: See `default_tools`.

    Raises:
        ConfigError: A function cannot be a tool, or has the name of another tool.

    Example:
        >>> def convert(celsius: float) -> float:
        ...     "Convert a temperature to Fahrenheit."
        ...     return celsius * 9 / 5 + 32
        >>> list(make_tools([convert], "cache", wikipedia=False).tools)
        ['search_memory', 'read_profile', 'convert']
    """
    if isinstance(tools, ToolSet):
        return tools
    if isinstance(tools, Tool) or callable(tools):
        raise ConfigError("`tools` must be a list of functions or a `ToolSet`; put the function in a list")
    default = default_tools(cache_dir, wikipedia=wikipedia)
    return default.with_tools(*tools) if tools else default
