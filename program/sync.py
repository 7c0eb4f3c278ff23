"""Runs a coroutine without an event loop, so that sync and async methods share one implementation."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that makes only blocking calls, and return its result.

    Raises:
        RuntimeError: The coroutine suspended; only code that never waits may be passed in.

    Example:
        >>> async def answer():
        ...     return 42
        >>> run_now(answer())
        42
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine suspended; `run_now` needs one that never waits")
