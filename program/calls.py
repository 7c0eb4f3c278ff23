"""What stands around each model call of a piece of work: a limit, a record of replies, or nothing.

Whatever makes an asyncio call asks here first: `program.usage.track_lm`, and the embedded model where it
scores labels and texts. Whoever runs the work sets what stands around.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Call = Callable[[], Awaitable[Any]]
"""Makes the call and returns the model's outputs."""

Around = Callable[[str, Call], Awaitable[Any]]
"""Gets a digest of the request and the call; returns the outputs, with the call or without it."""

_around: ContextVar[Around | None] = ContextVar("personaagent_around_calls", default=None)


@contextmanager
def around_calls(around: Around) -> Iterator[None]:
    """Let ``around`` make the model calls inside the block; one that is set already is inside of it.

    Example:
        >>> import asyncio
        >>> async def count(request, call):
        ...     print("a call")
        ...     return await call()
        >>> async def call():
        ...     return ["Lentils."]
        >>> async def ask():
        ...     with around_calls(count):
        ...         return await make_call("the request", call)
        >>> asyncio.run(ask())
        a call
        ['Lentils.']
    """
    inner = _around.get()

    async def both(request: str, call: Call) -> Any:
        return await around(request, call if inner is None else lambda: inner(request, call))

    token = _around.set(both)
    try:
        yield
    finally:
        _around.reset(token)


async def make_call(request: str, call: Call) -> Any:
    """Make one model call within what stands around it.

    Args:
        request: A digest of everything that decides the reply.
        call: Makes the call.
    """
    around = _around.get()
    return await (call() if around is None else around(request, call))


def digest_of(*parts: Any) -> str:
    """Return a digest of a request; equal parts have the same one in every process.

    Example:
        >>> digest_of("model", {"n": 1}) == digest_of("model", {"n": 1})
        True
    """
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()


def has_around() -> bool:
    """Return whether something stands around the calls; digests are needed only then."""
    return _around.get() is not None
