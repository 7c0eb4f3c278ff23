"""One text for sync and async code: a coroutine that never waits can be run to its end at once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that makes only blocking calls, without an event loop.

    Raises:
        RuntimeError: It waited for something; that is a bug of the caller.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine that was to run at once has waited")
