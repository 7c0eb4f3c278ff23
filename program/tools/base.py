"""The contract of a tool: a typed function with a docstring, which gets one user's context."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from program.errors import ConfigError
from program.memory.base import Before, Memory
from program.memory.interaction import Interaction
from program.memory.semantic import Profile


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """One user's data for a tool, and the limits on what the tool may show.

    Attributes:
        memory: The user's episodic memory.
        profile: Returns the user's profile of the interactions before its argument.
        before: Show only interactions before this (see `program.memory.base.Before`).
        exclude: Interaction ids that must not be shown.
        k: Number of interactions that a memory search returns.
        max_chars: Maximum length of an interaction's text, in characters; longer ones are cut.
        response_noun: The word for a response: "tag" (see `program.task.Task`).
        shown: The interactions that tools have shown for this query, best match first in each search.
            `search_memory` adds to it; a tool of your own that shows interactions should, too.

    Example:
        >>> from program import EpisodicMemory, Interaction
        >>> from program.memory.semantic import Facts, Profile
        >>> film = Interaction(id="1", user_id="ana", query="A robot dreams.", response="sci-fi")
        >>> context = ToolContext(
        ...     memory=EpisodicMemory("ana", [film]),
        ...     profile=lambda before: Profile(facts=Facts(interactions=1)),
        ...     response_noun="tag",
        ... )
        >>> from program.tools import search_memory
        >>> search_memory(context, "robots")
        '1. tag: sci-fi | A robot dreams.'
    """

    memory: Memory
    profile: Callable[[Before], Profile]
    before: Before = None
    exclude: Collection[str] = ()
    k: int = 4
    max_chars: int = 600
    response_noun: str = "response"
    shown: list[Interaction] = field(default_factory=list)


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: As the model writes it.
        description: The first paragraph of the function's docstring, as the model reads it.
        arguments: Argument names and their types, without the context.
        run: The function, sync or async. The model reads its return value as text; an exception
            becomes an observation with the error.
        needs_context: Whether `run` takes the `ToolContext` as its first argument.
        blocking: Whether `run` waits for the network or the disk; an async agent then runs it in a
            thread.

    Example:
        >>> def convert(celsius: float) -> float:
        ...     "Convert a temperature to Fahrenheit."
        ...     return celsius * 9 / 5 + 32
        >>> tool = Tool.of(convert)
        >>> tool.name, tool.description, tool.run(100.0)
        ('convert', 'Convert a temperature to Fahrenheit.', 212.0)
    """

    name: str
    description: str
    arguments: Mapping[str, Any]
    run: Callable[..., Any]
    needs_context: bool = False
    blocking: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any], *, blocking: bool = False) -> Tool:
        """Return a tool for a typed function with a docstring.

        A first parameter of type `ToolContext` receives the user's context.

        Raises:
            ConfigError: The function has no docstring, an argument has no type or no name, a type is
                unknown, or the name is reserved.
        """
        name = getattr(function, "__name__", type(function).__name__)
        doc = inspect.getdoc(function)
        if not doc:
            raise ConfigError(f"tool `{name}` needs a docstring: the model reads it as the description")
        if name == "finish":
            raise ConfigError("`finish` is reserved for the final answer; rename the tool")
        try:
            hints = get_type_hints(function if inspect.isroutine(function) else type(function).__call__)
            parameters = inspect.signature(function).parameters
        except (NameError, TypeError, ValueError) as error:
            raise ConfigError(f"tool `{name}` must be a plain typed function: {error}") from error
        for parameter in parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigError(f"tool `{name}`: `{parameter}` needs a name that a model can write")
            if parameter.name not in hints:
                raise ConfigError(f"tool `{name}`: argument `{parameter.name}` needs a type")
        names = list(parameters)
        needs_context = bool(names) and hints[names[0]] is ToolContext
        arguments = {p: hints[p] for p in names[1 if needs_context else 0 :]}
        return cls(name, doc.split("\n\n")[0], arguments, function, needs_context, blocking)

    def defaults(self) -> dict[str, Any]:
        """Return the defaults of the optional arguments."""
        parameters = inspect.signature(self.run).parameters
        return {
            name: parameters[name].default
            for name in self.arguments
            if name in parameters and parameters[name].default is not inspect.Parameter.empty
        }
