"""Runs alignments whose calls wait for batches, over the engine that keeps their pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

from optimizers.checking import checking_at_once
from optimizers.contracts import CallJournal, Journal
from optimizers.fleet.batch_api.collector import Collector, Work, current_work, working
from optimizers.fleet.batch_api.tables import BatchTables
from optimizers.fleet.engines import FleetEngine
from optimizers.fleet.place import user_prefix
from program.store import UserStore


class BatchedEngine:
    """Names the calls of each user, and forgets their answers once they are used.

    Args:
        inner: Keeps the pieces.
        collector: Collects the calls.
        tables: The collector's.
        store: The users' store.
    """

    def __init__(
        self, inner: FleetEngine, collector: Collector, tables: BatchTables, store: UserStore
    ) -> None:
        self._inner = inner
        self._collector = collector
        self._tables = tables
        self._store = store

    async def run(self, user_id: str, key: str, work: Callable[[Journal], Awaitable[None]]) -> None:
        """Run an attempt; if it is cancelled, its calls end at once, and their batches go on."""
        # The profile is asked for before any piece is run, which has a name of its own.
        names = Work(user_prefix(self._store, user_id), "profile")

        async def attempt() -> None:
            with working(names), checking_at_once(self._collector.settings.check_items):
                await self._inner.run(user_id, key, lambda journal: work(_NamedCalls(journal)))

        task = asyncio.ensure_future(attempt())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            self._collector.release(names.prefix)
            with suppress(Exception, asyncio.CancelledError):
                await task
            raise
        except Exception:
            # The journal has what was used. What is answered later stays for the next attempt.
            await self._tables.delete(names.used)
            raise
        await self._tables.forget(names.prefix)


class _NamedCalls:
    """A journal that names each call before it is made."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def run(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run a piece."""
        return await self._journal.run(name, work)

    async def run_call(self, piece: str, number: int, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run a call of a piece."""

        async def named() -> Any:
            names = current_work()
            with working(names.of(f"{piece}/{number}")):
                return await work()

        if not hasattr(self._journal, "run_call"):
            return await named()
        return await cast(CallJournal, self._journal).run_call(piece, number, named)


@asynccontextmanager
async def batched(
    inner: FleetEngine, collector: Collector, store: UserStore, home: Path
) -> AsyncIterator[FleetEngine]:
    """Run alignments in batches over ``inner`` inside the block.

    Raises:
        StoreError: The tables of batches cannot be opened.
    """
    async with collector.opened(store, home) as tables:
        yield BatchedEngine(inner, collector, tables, store)
