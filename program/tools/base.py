"""What a tool is: a typed function with a docstring, bound to one user when it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from program.errors import ConfigError
from program.memory.base import Before, Memory
from program.memory.semantic import Profile


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """Everything a tool may know of the one user it works for, and how far it may look.

    Attributes:
        memory: The user's episodic memory.
        profile: Returns the user's profile as it stood at ``before``.
        before: Nothing at or after this may be shown (see `program.memory.base.Before`).
        exclude: Interaction ids that may not be shown.
        k: How many interactions one memory search returns.
        max_chars: Longest interaction text shown, in characters; longer ones are cut.
        response_noun: What a response of this user is called: "tag" (see `program.task.Task`).
    """

    memory: Memory
    profile: Callable[[Before], Profile]
    before: Before = None
    exclude: Collection[str] = ()
    k: int = 4
    max_chars: int = 600
    response_noun: str = "response"


@dataclass(frozen=True)
class Tool:
    """A function the persona may call.

    Attributes:
        name: As the model writes it.
        description: The first paragraph of the function's docstring, as the model reads it.
        arguments: Argument names and their types, without the context.
        run: The function; sync or async. What it returns is turned into text for the model, and
            what it raises becomes an observation that says what failed.
        needs_context: Whether `run` takes the `ToolContext` as its first argument.
        blocking: Whether `run` waits for something outside the process (network, disk); an async
            agent then runs it in a thread.
    """

    name: str
    description: str
    arguments: Mapping[str, Any]
    run: Callable[..., Any]
    needs_context: bool = False
    blocking: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any], *, blocking: bool = False) -> Tool:
        """Make a tool of a typed function with a docstring.

        A first parameter annotated `ToolContext` receives the user's context.

        Raises:
            ConfigError: No docstring, an argument without a type, or a name the loop needs.
        """
        name = getattr(function, "__name__", type(function).__name__)
        doc = inspect.getdoc(function)
        if not doc:
            raise ConfigError(f"tool `{name}` needs a docstring: it is what the model reads")
        if name == "finish":
            raise ConfigError("`finish` is how the agent ends; give the tool another name")
        hints = get_type_hints(function)
        parameters = list(inspect.signature(function).parameters)
        untyped = [parameter for parameter in parameters if parameter not in hints]
        if untyped:
            raise ConfigError(f"tool `{name}`: argument `{untyped[0]}` needs a type")
        needs_context = bool(parameters) and hints[parameters[0]] is ToolContext
        arguments = {p: hints[p] for p in parameters[1 if needs_context else 0 :]}
        return cls(name, doc.split("\n\n")[0], arguments, function, needs_context, blocking)
