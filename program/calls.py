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
        ...         return await make_call(call, "the request")
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


async def make_call(call: Call, *request: Any) -> Any:
    """Make one model call within what stands around it.

    Args:
        call: Makes the call.
        request: Everything that decides the reply. A digest is made of it only if something stands around.
    """
    around = _around.get()
    if around is None:
        return await call()
    return await around(hashlib.sha256(repr(request).encode("utf-8", "backslashreplace")).hexdigest(), call)
