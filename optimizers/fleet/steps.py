"""Writes finished steps: all that wait, over all users, in one transaction.

A step of DBOS's own is three transactions in threads, about 4 ms of CPU; a model call has little more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

_GATHER_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class FinishedStep:
    """One step of a workflow.

    Attributes:
        workflow_id: The workflow.
        number: Its place in the workflow; no other step of it has the same.
        name: Its name.
        output: What it returned, as JSON.
        finished_at: When, in milliseconds since 1970.
    """

    workflow_id: str
    number: int
    name: str
    output: str
    finished_at: int = field(default_factory=lambda: int(time.time() * 1000))


class StepWriter:
    """Gathers steps while a transaction is in progress, and writes them in the next one.

    Args:
        write: Writes steps in one transaction, and returns the workflows that were cancelled; it is called
            in a thread, once at a time.

    Example:
        >>> async def main():
        ...     writer = StepWriter(lambda steps: print([step.name for step in steps]) or ())
        ...     first = FinishedStep(workflow_id="w", number=1, name="step 1", output="1")
        ...     second = FinishedStep(workflow_id="w", number=2, name="step 2", output="2")
        ...     return await asyncio.gather(writer.add(first), writer.add(second))
        >>> asyncio.run(main())
        ['step 1', 'step 2']
        [True, True]
    """

    def __init__(self, write: Callable[[Sequence[FinishedStep]], Collection[str]]) -> None:
        self._write = write
        self._waiting: dict[asyncio.Future[bool], FinishedStep] = {}
        self._writing: asyncio.Task[None] | None = None

    def add(self, step: FinishedStep) -> asyncio.Future[bool]:
        """Return a future of whether its workflow may go on, which is false if somebody cancelled it.

        The future is done when the step is stored. It raises a `StoreError` if the transaction failed: none
        of its steps is stored then. To cancel the future changes nothing.
        """
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[stored] = step
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_all())
        return stored

    def withdraw(self, stored: asyncio.Future[bool]) -> None:
        """Leave out a step, given its future, if no transaction with it has begun."""
        if stored in self._waiting:
            del self._waiting[stored]
            stored.cancel()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                # Steps that end meanwhile belong to the same transaction, or make an earlier one needless.
                await asyncio.sleep(_GATHER_SECONDS)
                batch, self._waiting = self._waiting, {}
                if batch:
                    await self._write_batch(batch)
        finally:
            self._writing = None

    async def _write_batch(self, batch: dict[asyncio.Future[bool], FinishedStep]) -> None:
        error, cancelled = None, set()
        try:
            cancelled = set(await asyncio.to_thread(self._write, list(batch.values())))
        except Exception as failure:  # noqa: BLE001 - whoever waits for the step raises it
            error = failure
        for stored, step in batch.items():
            if stored.done():
                continue
            if error is None:
                stored.set_result(step.workflow_id not in cancelled)
            else:
                stored.set_exception(error)
                stored.exception()  # a waiter that was cancelled does not read it
