"""How many calls may be in flight: found out from the provider's refusals, and shared fairly by users.

The limit doubles with each round of calls until the first refusal (HTTP 429). Then it shrinks to 0.8 with a
refusal, at most once in 15 s, and grows by 5 % with each round without one. A round is as many answers as
the limit. How long a refused call waits before it is made again is the call's own business
(`program.models.patience`), which follows ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

FIRST = 20
"""Calls in flight before anything is known of the provider."""

GROWTH, STEP, CUT = 2.0, 1.05, 0.8
CUT_SECONDS = 15.0


class AdaptiveLimit:
    """A limit on calls in flight. Only for one event loop.

    Args:
        ceiling: The limit is never above it.
        first: The limit to begin with.
        clock: Seconds that never go back.

    Attributes:
        limit: Calls that may be in flight now.
        in_flight: Calls that are.

    Example:
        >>> async def main():
        ...     limit = AdaptiveLimit(128)
        ...     async with limit.slot("ana"):
        ...         print(limit.in_flight, "of", limit.limit)
        ...     limit.refused()
        ...     print(limit.limit)
        >>> asyncio.run(main())
        1 of 20
        16
    """

    def __init__(
        self, ceiling: int, *, first: int = FIRST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ceiling = ceiling
        self.limit = min(first, ceiling)
        self.in_flight = 0
        self._clock = clock
        self._doubles = True
        self._cut_at = -math.inf
        self._answers = 0
        self._was_full = False
        # Who waits, by user; the user who is first here has been served least recently.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, user_id: str) -> AsyncIterator[None]:
        """Wait until one more call may be in flight; users who wait take turns."""
        if self.in_flight < self.limit and not self._waiting:
            self.in_flight += 1
        else:
            await self._wait(user_id)
        self._was_full |= self.in_flight >= self.limit
        try:
            yield
        finally:
            self.in_flight -= 1
            self._serve()

    def answered(self) -> None:
        """Note that a call was answered."""
        self._answers += 1
        if self._answers < self.limit:
            return
        if self._was_full:  # a limit that nobody reached says nothing about a higher one
            more = self.limit * (GROWTH if self._doubles else STEP)
            self.limit = min(self.ceiling, max(self.limit + 1, int(more)))
        self._next_round()
        self._serve()

    def refused(self) -> None:
        """Note that the provider refused a call because there were too many."""
        self._doubles = False
        self._next_round()
        if self._clock() - self._cut_at >= CUT_SECONDS:
            self._cut_at = self._clock()
            self.limit = max(1, int(self.limit * CUT))

    def _next_round(self) -> None:
        self._answers = 0
        self._was_full = False

    async def _wait(self, user_id: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.in_flight -= 1  # the turn came together with the end
                self._serve()
            else:
                self._forget(user_id, turn)
            raise

    def _serve(self) -> None:
        """Give the free slots to those who wait, one user after the other."""
        while self._waiting and self.in_flight < self.limit:
            user_id, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if not turn.cancelled():  # who waits may not have run since, to give up the place
                turn.set_result(None)
                self.in_flight += 1
            if turns:
                self._waiting[user_id] = turns

    def _forget(self, user_id: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(user_id)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[user_id]
