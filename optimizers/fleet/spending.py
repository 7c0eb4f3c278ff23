"""The budget of a batch, over all processes that work on it: each call is reserved before it is made."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import dspy

from optimizers.fleet.batches import Batches, Granted
from program.calls import Call
from program.errors import BudgetExceededError
from program.text import counted
from program.usage import Budget, Usage, metered

_SECONDS = 1.0
"""How often what was paid is written if nothing limits it."""


class BatchBudgetError(BudgetExceededError):
    """The batch has spent its budget: everybody stops."""


@dataclass
class Spending:
    """Counts and limits the calls of one batch in this process.

    A call is counted in the table before it is made, and its price before its reply is kept, so that a
    process that is killed has left out nothing that it paid. Calls that ask at the same time share one
    transaction. Without a limit nothing waits: what was paid is written about once a second.
    The dollars may exceed the limit by the calls that are in flight.

    Args:
        batches: The table.
        batch_id: The batch.
        budget: Its limits.
    """

    batches: Batches
    batch_id: str
    budget: Budget
    _asking: list[asyncio.Future[bool]] = field(default_factory=list)
    _telling: list[asyncio.Future[bool]] = field(default_factory=list)
    _unsaid: Usage = field(default_factory=Usage)
    _writer: asyncio.Task[None] | None = None
    _refused: BatchBudgetError | None = None
    _next_write: float = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.budget.max_calls is not None or self.budget.max_usd is not None

    @property
    def is_spent(self) -> bool:
        """Whether a call was refused."""
        return self._refused is not None

    async def around(self, request: str, call: Call) -> Any:
        """Make a call within the budget.

        Raises:
            BatchBudgetError: It would exceed a limit; it was not made.
        """
        await self._reserve()
        usage: dict[str, Usage] = {}
        try:
            with metered() as usage:
                outputs = await call()
        except dspy.LMError:  # a request that the provider refused costs nothing
            await self._count(usage)
            raise
        await self._count(usage)
        return outputs

    async def flush(self) -> None:
        """Write what is not written yet."""
        await self._written()

    async def _reserve(self) -> None:
        if not self.is_limited:
            self._unsaid.calls += 1
            return
        if self._refused is not None:
            raise self._refused
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asking.append(granted)
        self._start()
        if not await granted:
            assert self._refused is not None
            raise self._refused

    async def _count(self, usage: dict[str, Usage]) -> None:
        """Count what a reserved call really cost."""
        for used in usage.values():
            self._unsaid.add(used)
            self._unsaid.calls -= used.cache_hits
        self._unsaid.calls -= 1
        if self.is_limited:
            await self._written()
        elif time.monotonic() > self._next_write:
            self._next_write = time.monotonic() + _SECONDS
            self._start(even_if_nobody_waits=True)

    async def _written(self) -> None:
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._telling.append(told)
        self._start()
        await asyncio.shield(told)

    def _start(self, *, even_if_nobody_waits: bool = False) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._write(even_if_nobody_waits))

    async def _write(self, once: bool) -> None:
        """Write until nobody waits; what comes in meanwhile goes into the next transaction together."""
        while once or self._asking or self._telling:
            once = False
            asking, self._asking = self._asking, []
            telling, self._telling = self._telling, []
            unsaid, self._unsaid = self._unsaid, Usage()
            try:
                got = await asyncio.to_thread(
                    self.batches.spend,
                    self.batch_id,
                    unsaid,
                    wants=len(asking),
                    most=self.budget.max_calls,
                )
            except Exception as error:  # noqa: BLE001 - it reaches each call that waits
                self._unsaid.add(unsaid)
                for future in (*asking, *telling):
                    if not future.done():
                        future.set_exception(error)
                return
            allowed = got.calls if not asking else self._allowed(got, len(asking))
            for number, future in enumerate(asking):
                if number < allowed and future.cancelled():
                    self._unsaid.calls -= 1
                elif not future.done():
                    future.set_result(number < allowed)
            for future in telling:
                if not future.done():
                    future.set_result(True)

    def _allowed(self, got: Granted, wanted: int) -> int:
        """Return how many of the wanted calls may be made, and note why not all of them."""
        if reason := self._too_dear(got.paid):
            self._refused = BatchBudgetError(reason)
            self._unsaid.calls -= got.calls
            return 0
        if got.calls < wanted:
            limit = counted(self.budget.max_calls or 0, "call")
            self._refused = BatchBudgetError(
                f"stopped before call {got.paid.calls + 1} of the batch: the limit is {limit}"
            )
        return got.calls

    def _too_dear(self, paid: Usage) -> str:
        if self.budget.max_usd is None:
            return ""
        if paid.unpriced:
            calls = counted(paid.unpriced, "call")
            return (
                f"cannot enforce `max_usd`: no known price for {calls}; give `--price-in` and `--price-out`, "
                "or use `max_calls`"
            )
        if paid.usd >= self.budget.max_usd:
            return f"stopped at ${paid.usd:.4f} of the batch: the limit is ${self.budget.max_usd}"
        return ""
