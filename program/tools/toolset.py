"""The tools an agent acts through: shown to the model, typed for its answer, run without raising."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

from pydantic import BaseModel

from program.errors import ConfigError
from program.text import cut, one_line
from program.tools.base import Tool, ToolContext
from program.tools.schema import call_model, finish_model

_MAX_ERROR_CHARS = 200


class ToolError(Exception):
    """A tool raises it to say in its own words, to the model, what it could not do."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What came of one tool call.

    Attributes:
        tool: Its name.
        arguments: As they were passed, without the context.
        text: What the model reads: the result, or what failed.
        failed: Whether the tool raised.
        seconds: How long it ran.
    """

    tool: str
    arguments: Mapping[str, Any]
    text: str
    failed: bool
    seconds: float


class ToolSet:
    """Some tools under one roof. It never changes: share one between all agents of a process.

    Args:
        tools: In the order the model reads them.
        max_chars: Longest text of an observation, in characters; longer ones are cut.

    Raises:
        ConfigError: Two tools have one name, or a tool cannot be typed.
    """

    def __init__(self, tools: Sequence[Tool], *, max_chars: int = 4000) -> None:
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.max_chars = max_chars
        if len(self.tools) < len(tools):
            names = [tool.name for tool in tools]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two tools are called `{twice}`; give one of them another name")
        self.call_models: Mapping[str, type[BaseModel]] = {tool.name: call_model(tool) for tool in tools}
        self._action_types: dict[Any, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolSet:
        return self

    def render(self) -> str:
        """Return one line for each tool, ``name(argument: type): description``, as the model reads it."""
        return self._rendered

    @cached_property
    def _rendered(self) -> str:
        return "\n".join(_signature_line(tool) for tool in self.tools.values())

    def action_type(self, answer: Any) -> Any:
        """Return the type of an action: a call of one of the tools, or ``finish`` with an ``answer``.

        It is a union of the `call_models` and of a model ``Finish``, told apart by their field
        ``tool``; as JSON schema an ``anyOf``. The same type is returned for the same ``answer``.

        Args:
            answer: The annotation of the final answer; hashable.
        """
        if answer not in self._action_types:
            # A plain union: DSPy drops pydantic's discriminator from a field, and the constant `tool`
            # with no further fields allowed already tells the members apart.
            members = (*self.call_models.values(), finish_model(answer))
            self._action_types.setdefault(answer, Union[members])  # noqa: UP007
        return self._action_types[answer]

    def call(self, name: str, **arguments: Any) -> BaseModel:
        """Return the action that calls a tool.

        Raises:
            ConfigError: There is no such tool.
            pydantic.ValidationError: The arguments do not fit it.
        """
        if name not in self.call_models:
            raise ConfigError(f"no tool {name!r}; there are: {', '.join(self.tools) or 'none'}")
        return self.call_models[name](tool=name, **arguments)

    def run(self, action: BaseModel, context: ToolContext) -> Observation:
        """Run a call, which is any action but ``Finish``.

        A tool that raises gives an observation that says so. An async tool works where no event loop
        is running.
        """
        call = _Call(self, action, context)
        try:
            result = call.start()
            if inspect.isawaitable(result):
                result = _wait_for(result)
        except Exception as error:  # noqa: BLE001 - the model reads what failed, and the loop goes on
            return call.failed(error)
        return call.done(result)

    async def arun(self, action: BaseModel, context: ToolContext) -> Observation:
        """Run a call like `run`; tools that block run in a thread, async ones are awaited."""
        call = _Call(self, action, context)
        try:
            result = await asyncio.to_thread(call.start) if call.blocks else call.start()
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # noqa: BLE001 - the model reads what failed, and the loop goes on
            return call.failed(error)
        return call.done(result)


class _Call:
    """One call on its way to an observation."""

    def __init__(self, tools: ToolSet, action: BaseModel, context: ToolContext) -> None:
        self._tool = tools.tools[action.tool]  # type: ignore[attr-defined]
        self._arguments = {name: getattr(action, name) for name in self._tool.arguments}
        self._context = context
        self._max_chars = tools.max_chars
        self._started = time.perf_counter()

    @property
    def blocks(self) -> bool:
        return self._tool.blocking and not inspect.iscoroutinefunction(self._tool.run)

    def start(self) -> Any:
        first = (self._context,) if self._tool.needs_context else ()
        return self._tool.run(*first, **self._arguments)

    def done(self, result: Any) -> Observation:
        return self._observation(_as_text(result), failed=False)

    def failed(self, error: Exception) -> Observation:
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
            seconds=time.perf_counter() - self._started,
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
    arguments = ", ".join(
        f"{name}: {inspect.formatannotation(kind)}" for name, kind in tool.arguments.items()
    )
    return f"{tool.name}({arguments}): {' '.join(tool.description.split())}"
