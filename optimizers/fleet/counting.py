"""Counts and limits what several processes pay for one batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from optimizers.fleet.batch import Batch
from optimizers.fleet.engines import is_durable, open_tables
from optimizers.fleet.users import spending_of
from program.store import UserStore
from program.usage import Budget


@asynccontextmanager
async def counted_together(
    store: UserStore, home: Path, batch_id: str, budget: Budget
) -> AsyncIterator[None]:
    """Count and limit the calls of `optimizers.align_users` inside the block with those of other processes.

    Args:
        store: The users' store.
        home: The data directory.
        batch_id: The batch that all work on; empty: do nothing.
        budget: The limits of the batch.
    """
    if not batch_id:
        yield
        return
    from optimizers.fleet.spending import Spending

    with open_tables(store, home) as engine:
        spending = Spending(engine.batches, batch_id, budget)
        try:
            with spending_of(spending):
                yield
        finally:
            await spending.flush()


def open_batch(store: UserStore, home: Path, batch: Batch) -> str:
    """Return the id of the batch that a command goes on with or begins; empty if dbos is not installed."""
    if not is_durable():
        return ""
    with open_tables(store, home) as engine:
        return str(engine.batches.open(batch)[0])


def end_batch(store: UserStore, home: Path, batch_id: str) -> None:
    """End a batch, so that the same command begins another one with the whole budget."""
    if batch_id:
        with open_tables(store, home) as engine:
            engine.batches.end(batch_id)
