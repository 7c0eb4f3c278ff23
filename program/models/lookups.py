"""DSPy's short work for each call, kept out of threads: a request is prepared, abilities, route, price found.

Threads take the interpreter from each other, which costs up to 1 ms of CPU a call. DSPy also goes through its
whole list twice for the price of a model that it does not know; what the list says is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

from dspy.clients import capabilities, costs
from dspy.clients.model_metadata import model_info

_ABILITIES = ("dspy.clients.capabilities", "capabilities")
_LOOKUPS = frozenset(
    (
        _ABILITIES,
        ("dspy.clients.engines.lm15_engine", "_target"),
        ("dspy.clients.execution", "_price_result"),
        # It reads files for the media of a request, which an alignment has none of.
        ("dspy.clients.execution", "prepare"),
    )
)
_known: set[tuple[str, str]] = set()
_info = lru_cache(maxsize=256)(model_info)


@contextmanager
def few_lookups() -> Iterator[None]:
    """Make DSPy's look-ups in the running event loop, inside the block, and those in its list once.

    The first one of each model may read files or import a package, and stays in a thread. All stay there if
    the loop's methods cannot be replaced, as those of a loop in C.

    Example:
        >>> async def main():
        ...     with few_lookups():
        ...         ...  # many calls
        >>> asyncio.run(main())
    """
    loop = asyncio.get_running_loop()
    if "run_in_executor" in getattr(loop, "__dict__", {"run_in_executor": None}):
        yield  # a block around this one does it already, or nobody can
        return
    capabilities.model_info = costs.model_info = _info
    vars(loop)["run_in_executor"] = partial(_run, loop, loop.run_in_executor)
    try:
        yield
    finally:
        del vars(loop)["run_in_executor"]
        capabilities.model_info = costs.model_info = model_info


def _run(
    loop: asyncio.AbstractEventLoop,
    in_thread: Callable[..., asyncio.Future[Any]],
    executor: Any,
    function: Callable[..., Any],
    *args: Any,
) -> asyncio.Future[Any]:
    # `asyncio.to_thread` runs the work in a copy of the context, with its arguments.
    inner = function.args if executor is None and isinstance(function, partial) else ()
    origin = (getattr(inner[0], "__module__", ""), getattr(inner[0], "__name__", "")) if inner else ("", "")
    if origin not in _LOOKUPS:
        return in_thread(executor, function, *args)
    name = origin[1], next((str(value.model) for value in inner[1:] if hasattr(value, "model")), "")
    if name not in _known:
        future = in_thread(executor, function, *args)
        future.add_done_callback(lambda _: _known.add(name))
        return future
    done = loop.create_future()
    try:
        # Abilities are asked for in advance, and again when they are needed.
        done.set_result(None if origin == _ABILITIES else function(*args))
    except Exception as error:  # noqa: BLE001 - whoever awaits it raises it
        done.set_exception(error)
    return done
