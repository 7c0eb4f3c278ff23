"""A set of tools: describes them to the model, types its actions, and runs their calls."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Union

from pydantic import BaseModel

from program.errors import ConfigError
from program.text import cut, one_line
from program.tools.base import Tool, ToolContext
from program.tools.schema import call_model, finish_model

_MAX_ERROR_CHARS = 200


class ToolError(Exception):
    """A failure of a tool; the model reads the message as it is."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The outcome of one tool call.

    Attributes:
        tool: The tool's name.
        arguments: The arguments, without the context.
        text: The text for the model: the tool's result or its error.
        failed: Whether the tool raised.
        seconds: Wall time of the call.
        interaction_ids: The interactions that the tool showed (see `ToolContext.shown`).
    """

    tool: str
    arguments: Mapping[str, Any]
    text: str
    failed: bool
    seconds: float
    interaction_ids: tuple[str, ...] = ()


class ToolSet:
    """The tools of an agent. Immutable: all agents of a process can share one.

    Args:
        tools: Tools, or typed functions with docstrings, in the order in which the model reads them.
        max_chars: Maximum length of an observation, in characters; longer ones are cut.

    Raises:
        ConfigError: Two tools have the same name, or a function cannot be a tool (see `Tool.of`).

    Example:
        >>> def convert(celsius: float) -> float:
        ...     "Convert a temperature to Fahrenheit."
        ...     return celsius * 9 / 5 + 32
        >>> tools = ToolSet([convert])
        >>> print(tools.render())
        convert(celsius: float): Convert a temperature to Fahrenheit.
        >>> tools.call("convert", celsius=100).model_dump()
        {'tool': 'convert', 'celsius': 100.0}
    """

    def __init__(self, tools: Sequence[Tool | Callable[..., Any]], *, max_chars: int = 4000) -> None:
        members = [tool if isinstance(tool, Tool) else Tool.of(tool) for tool in tools]
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in members}
        self.max_chars = max_chars
        if len(self.tools) < len(members):
            names = [tool.name for tool in members]
            duplicate = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two tools are called `{duplicate}`; rename one of them")
        self.call_models: Mapping[str, type[BaseModel]] = {tool.name: call_model(tool) for tool in members}
        self._action_types: dict[Any, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolSet:
        return self

    def __reduce__(self) -> Any:
        return partial(type(self), max_chars=self.max_chars), (list(self.tools.values()),)

    def with_tools(self, *tools: Tool | Callable[..., Any]) -> ToolSet:
        """Return a set with these tools after the ones of this set, which does not change.

        Example:
            >>> def convert(celsius: float) -> float:
            ...     "Convert a temperature to Fahrenheit."
            ...     return celsius * 9 / 5 + 32
            >>> list(ToolSet([]).with_tools(convert).tools)
            ['convert']
        """
        return ToolSet([*self.tools.values(), *tools], max_chars=self.max_chars)

    def render(self) -> str:
        """Return one line for each tool, ``name(argument: type): description``, as the model reads it."""
        return self._rendered

    @cached_property
    def _rendered(self) -> str:
        return "\n".join(_signature_line(tool) for tool in self.tools.values())

    def action_type(self, answer: Any) -> Any:
        """Return the type of an action: a call of one of the tools, or ``finish`` with an ``answer``.

        It is a union of the `call_models` and a model ``Finish``; their field ``tool`` discriminates.
        The JSON schema is an ``anyOf``. Equal arguments return the same type.

        Args:
            answer: The annotation of the final answer; hashable.
        """
        if answer not in self._action_types:
            # A plain union: DSPy drops pydantic's discriminator from a field, and the constant `tool`
            # without additional fields identifies a member anyway.
            members = (*self.call_models.values(), finish_model(answer))
            self._action_types.setdefault(answer, Union[members])  # noqa: UP007
        return self._action_types[answer]

    def call(self, name: str, **arguments: Any) -> BaseModel:
        """Return the action that calls a tool.

        Raises:
            ConfigError: The tool does not exist.
            pydantic.ValidationError: The arguments do not fit the tool.
        """
        if name not in self.call_models:
            raise ConfigError(f"unknown tool {name!r}; use one of: {', '.join(self.tools) or 'none'}")
        return self.call_models[name](tool=name, **arguments)

    def run(self, action: BaseModel, context: ToolContext) -> Observation:
        """Run a call: any action except ``Finish``.

        An exception of the tool becomes an observation. An async tool fails if an event loop is
        running; use `arun` there.
        """
        call = _Call(self, action, context)
        try:
            result = call.start()
            if inspect.isawaitable(result):
                result = _wait_for(result)
        except Exception as error:  # noqa: BLE001 - the model reads the error, and the loop continues
            return call.failure(error)
        return call.success(result)

    async def arun(self, action: BaseModel, context: ToolContext) -> Observation:
        """Run a call like `run`; blocking tools run in a thread, async ones are awaited."""
        call = _Call(self, action, context)
        try:
            result = await asyncio.to_thread(call.start) if call.blocks else call.start()
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # noqa: BLE001 - the model reads the error, and the loop continues
            return call.failure(error)
        return call.success(result)


class _Call:
    """One tool call in progress."""

    def __init__(self, tools: ToolSet, action: BaseModel, context: ToolContext) -> None:
        self._tool = tools.tools[action.tool]  # type: ignore[attr-defined]
        self._arguments = {name: getattr(action, name) for name in self._tool.arguments}
        self._context = context
        self._max_chars = tools.max_chars
        self._n_shown = len(context.shown)
        self._start_time = time.perf_counter()

    @property
    def blocks(self) -> bool:
        return self._tool.blocking and not inspect.iscoroutinefunction(self._tool.run)

    def start(self) -> Any:
        first = (self._context,) if self._tool.needs_context else ()
        return self._tool.run(*first, **self._arguments)

    def success(self, result: Any) -> Observation:
        return self._observation(_as_text(result), failed=False)

    def failure(self, error: Exception) -> Observation:
        if isinstance(error, ToolError):
            return self._observation(str(error), failed=True)
        message = one_line(str(error), _MAX_ERROR_CHARS)
        return self._observation(f"{self._tool.name} failed: {type(error).__name__}: {message}", failed=True)

    def _observation(self, text: str, *, failed: bool) -> Observation:
        return Observation(
            tool=self._tool.name,
            arguments=self._arguments,
            text=cut(text, self._max_chars),
            failed=failed,
            seconds=time.perf_counter() - self._start_time,
            interaction_ids=tuple(item.id for item in self._context.shown[self._n_shown :]),
        )


def _wait_for(result: Any) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_awaited(result))
    if inspect.iscoroutine(result):
        result.close()
    raise ToolError("This tool is async and cannot run inside an event loop; use the async agent.")


async def _awaited(result: Any) -> Any:
    return await result


def _as_text(result: Any) -> str:
    if result is None or result == "":
        return "(nothing)"
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def _signature_line(tool: Tool) -> str:
    defaults = tool.defaults()
    arguments = ", ".join(
        f"{name}: {inspect.formatannotation(kind)}" + (f" = {defaults[name]!r}" if name in defaults else "")
        for name, kind in tool.arguments.items()
    )
    return f"{tool.name}({arguments}): {' '.join(tool.description.split())}"
