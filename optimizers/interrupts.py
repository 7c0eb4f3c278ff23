"""What an interrupt ends at once, and what it lets end: a call in flight is paid, one that waits is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_protection: ContextVar[_Protection | None] = ContextVar("personaagent_protection", default=None)


class _Protection:
    """One call of `to_its_end`."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[Any]] = set()
        self._interrupted = False

    def interrupt(self) -> None:
        self._interrupted = True
        for task in self._waiting:
            task.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        if self._interrupted:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)


async def to_its_end(call: Awaitable[Any]) -> Any:
    """Await what must not be lost if the caller is cancelled, such as a call in flight, which is paid.

    The caller is cancelled when it has ended. A second cancellation ends it at once.

    Example:
        >>> async def call():
        ...     await asyncio.sleep(0.01)
        ...     print("answered")
        >>> async def main():
        ...     work = asyncio.create_task(to_its_end(call()))
        ...     await asyncio.sleep(0)
        ...     work.cancel()
        ...     await asyncio.wait({work})
        ...     return work.cancelled()
        >>> asyncio.run(main())
        answered
        True
    """
    protection = _Protection()
    token = _protection.set(protection)
    try:
        task = asyncio.ensure_future(call)
    finally:
        _protection.reset(token)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        protection.interrupt()
        with suppress(Exception):
            await task
        raise


@contextmanager
def not_begun() -> Iterator[None]:
    """Let an interrupt end, at once, the call that waits inside the block; use it within `to_its_end`.

    Outside of it, an interrupt ends the block anyway.
    """
    protection = _protection.get()
    if protection is None:
        yield
        return
    with protection.waiting():
        yield


async def all_of(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run jobs concurrently, and return their results in order.

    The first failure, or a cancellation, cancels the others once, and waits until they have ended:
    `asyncio.gather` leaves them behind, or cancels them twice.

    Example:
        >>> async def double(number):
        ...     return 2 * number
        >>> asyncio.run(all_of(double(number) for number in (1, 2)))
        [2, 4]
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [end for end in ends if isinstance(end, BaseException)]
    # Those that were cancelled say nothing about why.
    for failure in sorted(failures, key=lambda end: isinstance(end, asyncio.CancelledError)):
        raise failure
    return [task.result() for task in tasks]
