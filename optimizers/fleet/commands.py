"""What `personaagent align` runs: alone, or with the workers of the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from optimizers.fleet.alive import Processes
from optimizers.fleet.batch import Batch
from optimizers.fleet.batch_api.settings import ProviderBatches
from optimizers.fleet.counting import counted_together, end_batch, open_batch
from optimizers.fleet.engines import is_durable, open_engine, open_tables
from optimizers.fleet.place import location
from optimizers.fleet.processes import Share, align_in_processes, default_processes
from optimizers.fleet.users import UserResult, align_users
from program.errors import BudgetExceededError
from program.loop import AgentSettings
from program.store import UserStore
from program.usage import Prices, Usage


@contextmanager
def models_of(batch: Batch) -> Iterator[Any]:
    """Use the models of a batch inside the block; yield that of feedback and update, or ``None``."""
    from program.cli.options import model_in_use
    from program.models.resolve import resolve_lm

    prompt_lm = None if batch.prompt_model is None else resolve_lm(batch.prompt_model)
    with model_in_use(batch.model, batch.trace, batch.trace_content, batch.adapter) as lm:
        if batch.price_in is not None and batch.price_out is not None:
            for model in filter(None, (lm, prompt_lm)):
                model.prices = Prices(usd_in=batch.price_in, usd_out=batch.price_out)
        yield prompt_lm


def workers_live(store: UserStore, home: Path) -> bool:
    """Return whether a worker of this store lives, on whatever host."""
    if not is_durable():
        return False
    processes = Processes(store, home)
    try:
        return processes.any_worker()
    finally:
        processes.close()


def paid_before(store: UserStore, home: Path, batch: Batch) -> Usage:
    """Return what an earlier run of the same command, which did not end, has paid."""
    if not is_durable():
        return Usage()
    with open_tables(store, home) as engine:
        usage: Usage = engine.batches.paid_before(batch)
        return usage


def _options(batch: Batch) -> dict[str, Any]:
    return {
        "user_budget": batch.user_budget,
        "again": batch.again,
        "negatives": batch.negatives,
        "wikipedia": batch.wikipedia,
        "settings": AgentSettings(max_input_chars=batch.max_input_chars),
    }


async def align_here(
    store: UserStore,
    user_ids: list[str],
    batch: Batch,
    *,
    prompt_lm: Any,
    home: Path,
    concurrency: int,
    processes: int | None = 1,
    batches: ProviderBatches | None = None,
) -> AsyncGenerator[UserResult, None]:
    """Align the users of a batch on this machine, with DSPy's configured model.

    The budget counts what earlier runs of the same command paid if they did not end.

    Args:
        store: The users' store.
        user_ids: Stored users.
        batch: What to do with them.
        prompt_lm: The model of feedback and update; ``None`` for the agent's.
        home: The data directory.
        concurrency: Most calls in flight of all processes.
        processes: How many share the users; 1: this one. ``None``: as many as are worth their start.
        batches: Ask through the provider's batch API, in this process.
    """
    goes_on = False
    with open_engine(store, home):  # once, for all that opens it again below
        batch_id = open_batch(store, home, batch)
        if processes is None:
            alone = batches is not None or (batch.is_limited and not batch_id)
            processes = 1 if alone else default_processes(len(user_ids), concurrency)
        if processes > 1:
            share = Share(
                store=location(store),
                user_ids=user_ids,
                config=batch.config,
                models=partial(models_of, batch),
                options={"concurrency": concurrency, "home": home, **_options(batch)},
                batch_id=batch_id,
                budget=batch.budget,
            )
            running = align_in_processes(share, processes)
        else:
            running = _align_in_this_process(
                store, user_ids, batch, batch_id, prompt_lm, home, concurrency, batches
            )
        async with aclosing(running) as results:
            async for result in results:
                goes_on |= _goes_on(result)
                yield result
        if not goes_on:
            end_batch(store, home, batch_id)


async def _align_in_this_process(
    store: UserStore,
    user_ids: list[str],
    batch: Batch,
    batch_id: str,
    prompt_lm: Any,
    home: Path,
    concurrency: int,
    batches: ProviderBatches | None,
) -> AsyncGenerator[UserResult, None]:
    async with counted_together(store, home, batch_id, batch.budget):
        aligning = await align_users(
            store,
            user_ids,
            batch.config,
            prompt_model=prompt_lm,
            concurrency=concurrency,
            home=home,
            batches=batches,
            budget=None if batch_id else batch.budget,
            **_options(batch),
        )
        async with aclosing(aligning) as results:
            async for result in results:
                yield result


def _goes_on(result: UserResult) -> bool:
    """Return whether the same command is to go on with the batch: it was stopped, but not by its budget."""
    return result.status == "stopped" and not isinstance(result.error, BudgetExceededError)
