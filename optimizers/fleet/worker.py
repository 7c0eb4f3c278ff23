"""A worker: takes queued users of any batch, and takes over from workers that ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dspy

from optimizers.fleet import tasks
from optimizers.fleet.alive import Processes
from optimizers.fleet.batch import Batch
from optimizers.fleet.commands import models_of
from optimizers.fleet.engine import DurableEngine, open_durable
from optimizers.fleet.limit import AdaptiveLimit
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.many_calls import many_calls
from optimizers.fleet.order import longest_waiting_first
from optimizers.fleet.pauses import Pauses
from optimizers.fleet.spending import Spending
from optimizers.fleet.users import CONCURRENCY, PATIENCE, Fleet, UserResult
from optimizers.interrupts import to_its_end
from program.console import exit_code, explain
from program.errors import ConfigError, StoreUnavailableError
from program.loop import AgentSettings
from program.store import UserStore
from program.text import one_line
from program.usage import UsageTracker

TICK = 1.0
"""Seconds between two looks for workers that ended and for users who were cancelled."""

_POLL_SECONDS = 0.5
_IDLE_SECONDS = 2.0
_MAX_ERROR = 300

logger = logging.getLogger("personaagent.optimizers")

OnResult = Callable[[str, str, str], None]
"""Gets the user, what became of the user, and one line about a failure."""


@dataclass
class _Queued:
    """One user whom DBOS gave to this worker."""

    user_id: str
    batch_id: str
    result: concurrent.futures.Future[dict[str, Any]]


class Worker:
    """Aligns the users that DBOS gives to this process.

    Args:
        store: The users' store.
        home: The data directory.
        concurrency: Most calls in flight of this worker, and most users in progress.
        on_result: Hears of each user who ended here.
    """

    def __init__(
        self,
        store: UserStore,
        home: Path,
        *,
        concurrency: int = CONCURRENCY,
        on_result: OnResult = lambda user_id, status, line: None,
    ) -> None:
        self._store = store
        self._home = home
        self._concurrency = concurrency
        self._on_result = on_result
        self._me = tasks.new_id()
        self._loop = asyncio.get_running_loop()
        self._slots = AdaptiveLimit(concurrency)
        self._inbox: asyncio.Queue[_Queued] = asyncio.Queue()
        self._inboxes: dict[str, asyncio.Queue[_Queued]] = {}
        self._in_progress: dict[tuple[str, str], asyncio.Task[Any]] = {}

    @asynccontextmanager
    async def working(self) -> AsyncIterator[tuple[DurableEngine, asyncio.Task[None]]]:
        """Take users inside the block; those in progress at its end are left to others.

        Yields:
            The tables, and a task that ends only with an error.

        Raises:
            ConfigError: This process aligns users itself.
            StoreError: The tables cannot be opened.
        """
        processes = Processes(self._store, self._home)
        locks = UserLocks(self._store, self._home)
        with ExitStack() as stack:
            stack.callback(processes.close)
            stack.callback(locks.close)
            stack.enter_context(processes.live(self._me))
            stack.enter_context(many_calls(self._concurrency))
            tasks.listen(self._take, self._begin)
            # In a thread, so that DBOS runs its workflows in a loop of its own and may block; not in those of
            # the loop, which DBOS replaces by its own and ends.
            thread = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
            opened = open_durable(self._store, self._home, worker=self._me)
            engine = await self._loop.run_in_executor(thread, opened.__enter__)
            try:
                self._engine = engine
                await asyncio.to_thread(tasks.register, self._concurrency)
                await asyncio.to_thread(engine.end_dead, locks)
                work = asyncio.create_task(self._work(engine, locks, processes))
                try:
                    yield engine, work
                finally:
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)
            finally:
                await asyncio.shield(self._loop.run_in_executor(thread, opened.__exit__, None, None, None))

    async def wait_until_empty(self) -> None:
        """Return when nobody is queued or in progress anywhere."""
        while await asyncio.to_thread(partial(tasks.tasks, self._store, unfinished=True)):
            await asyncio.sleep(_POLL_SECONDS)

    async def end_those_in_progress(self) -> None:
        """Take no queued user any more, and return when those in progress have ended."""
        await asyncio.to_thread(self._engine.stop_taking)
        in_progress = 1
        while in_progress:
            await asyncio.sleep(_POLL_SECONDS)
            in_progress = await asyncio.to_thread(tasks.in_progress, self._me)

    async def _take(self, user_id: str, batch_id: str) -> dict[str, Any]:
        """Align a user for DBOS, which awaits this in its own loop."""
        queued = _Queued(user_id, batch_id, concurrent.futures.Future())
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, queued)
        return await asyncio.wrap_future(queued.result)

    async def _begin(self, batch_id: str, settings: dict[str, Any]) -> int:
        """Queue the users of a scheduled batch, outside of the workflow that asks for it."""

        def begin() -> int:
            batch = Batch.from_dict(settings)
            self._engine.batches.add(batch_id, batch)
            return tasks.enqueue(self._store, users_of(self._store, batch), batch_id)

        context = contextvars.Context()
        return await asyncio.get_running_loop().run_in_executor(None, context.run, begin)

    async def _work(self, engine: DurableEngine, locks: UserLocks, processes: Processes) -> None:
        """Give users to the runs of their batches, and look after other workers."""
        runs: dict[str, asyncio.Task[None]] = {}
        watch = asyncio.create_task(self._watch(engine, locks, processes))
        try:
            while True:
                arrival = asyncio.create_task(self._inbox.get())
                await asyncio.wait({arrival, watch}, return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    arrival.cancel()
                    watch.result()
                queued = await arrival
                batch_id = queued.batch_id
                if batch_id not in self._inboxes:
                    self._inboxes[batch_id] = asyncio.Queue()
                    runs[batch_id] = asyncio.create_task(self._run_batch(batch_id, engine, locks))
                self._inboxes[batch_id].put_nowait(queued)
        finally:
            for task in (watch, *runs.values()):
                task.cancel()
            await asyncio.gather(watch, *runs.values(), return_exceptions=True)

    async def _watch(self, engine: DurableEngine, locks: UserLocks, processes: Processes) -> None:
        def in_thread(function: Callable[..., Any], *args: Any) -> Any:
            return to_its_end(asyncio.to_thread(function, *args))

        while True:
            await in_thread(processes.check)
            with suppress(StoreUnavailableError):
                if moved := await in_thread(tasks.take_over, processes, self._me):
                    logger.warning("took over %d tasks of a worker that ended", moved)
                    await in_thread(engine.end_dead, locks)
            names = {tasks.task_id(self._store, *name): name for name in self._in_progress}
            for task_id in await in_thread(tasks.cancelled, list(names)):
                if (task := self._in_progress.get(names[task_id])) is not None:
                    task.cancel()
            await asyncio.sleep(TICK)

    async def _run_batch(self, batch_id: str, engine: DurableEngine, locks: UserLocks) -> None:
        """Align the users of one batch, until none comes any more."""
        inbox = self._inboxes[batch_id]
        try:
            batch = await asyncio.to_thread(engine.batches.read, batch_id)
            if batch is None:
                raise ConfigError("the settings of this batch are gone; run `personaagent align` again")
            spending = Spending(engine.batches, batch_id, batch.budget)
            with models_of(batch) as prompt_lm:
                fleet = self._fleet(batch, prompt_lm, spending)
                with fleet.calls():
                    served = False
                    while not served:
                        await self._serve(inbox, fleet, engine, locks)
                        await spending.flush()
                        served = inbox.empty()  # or a user came meanwhile, whom nobody else would take
        except Exception as error:  # noqa: BLE001 - another batch may have a model that works
            logger.warning("a batch cannot be worked on: %s", _line(error))
            while not inbox.empty():
                self._end(inbox.get_nowait(), as_data(error, "failed"))
        finally:
            del self._inboxes[batch_id]

    def _fleet(self, batch: Batch, prompt_lm: Any, spending: Spending) -> Fleet:
        options = {
            "negatives": list(batch.negatives),
            "wikipedia": batch.wikipedia,
            "tools": None,
            "settings": AgentSettings(max_input_chars=batch.max_input_chars),
            "prompt_model": prompt_lm,
        }
        return Fleet(
            store=self._store,
            config=batch.config,
            lm=dspy.settings.lm,
            options=options,
            user_budget=batch.user_budget,
            again=batch.again,
            home=self._home,
            pauses=Pauses(PATIENCE),
            tracker=UsageTracker(),
            slots=self._slots,
            spending=spending,
        )

    async def _serve(
        self, inbox: asyncio.Queue[_Queued], fleet: Fleet, engine: DurableEngine, locks: UserLocks
    ) -> None:
        active: set[asyncio.Task[None]] = set()
        try:
            while True:
                with suppress(asyncio.TimeoutError):
                    queued = await asyncio.wait_for(inbox.get(), _IDLE_SECONDS)
                    task = asyncio.create_task(self._align(queued, fleet, engine, locks))
                    active.add(task)
                    task.add_done_callback(active.discard)
                    continue
                if not active and inbox.empty():
                    return
        finally:
            for task in active:
                task.cancel()
            await asyncio.gather(*active, return_exceptions=True)

    async def _align(self, queued: _Queued, fleet: Fleet, engine: DurableEngine, locks: UserLocks) -> None:
        name = (queued.user_id, queued.batch_id)
        work = asyncio.create_task(self._one(queued.user_id, fleet, engine, locks))
        self._in_progress[name] = work
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:  # this worker stops, and another one takes the user
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise
        finally:
            del self._in_progress[name]
        self._end(queued, {"status": "cancelled"} if work.cancelled() else work.result())

    async def _one(
        self, user_id: str, fleet: Fleet, engine: DurableEngine, locks: UserLocks
    ) -> dict[str, Any]:
        result = await fleet.one(user_id, engine, locks)
        if fleet.spending is not None:
            with suppress(StoreUnavailableError):  # the next write says it
                await fleet.spending.flush()
        fleet.stopped |= result.status == "stopped"
        if result.error is not None:
            return as_data(result.error, result.status)
        return {"status": result.status, "version": result.persona_version}

    def _end(self, queued: _Queued, result: dict[str, Any]) -> None:
        if not queued.result.done():
            queued.result.set_result(result)
        self._on_result(queued.user_id, str(result["status"]), str(result.get("error", "")))


async def work_until(
    worker: Worker, stop: asyncio.Event, now: asyncio.Event, *, until_empty: bool = False
) -> None:
    """Work until ``stop`` is set, then end who is in progress; leave them to others if ``now`` is set too.

    Args:
        worker: The worker.
        stop: Ends it when those in progress have ended.
        now: Ends it at once.
        until_empty: End it, too, if nobody is queued or in progress anywhere.
    """
    async with worker.working() as (_, work):
        ending = worker.wait_until_empty() if until_empty else stop.wait()
        stopping, at_once = asyncio.create_task(stop.wait()), asyncio.create_task(now.wait())
        empty = asyncio.create_task(ending)
        waiting: set[asyncio.Task[Any]] = {stopping, at_once, empty}
        try:
            await asyncio.wait({work, stopping, at_once, empty}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            drained = asyncio.create_task(worker.end_those_in_progress())
            waiting |= {drained}
            await asyncio.wait({work, drained, at_once}, return_when=asyncio.FIRST_COMPLETED)
            for task in (work, drained):
                if task.done():
                    task.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def users_of(store: UserStore, batch: Batch) -> list[str]:
    """Return the users of a batch, those who wait longest first."""
    if isinstance(batch.users, tuple):
        return longest_waiting_first(store, batch.users)
    every = batch.users == "all"
    return longest_waiting_first(store, [user.user_id for user in store.users() if every or user.stale])


async def align_with_workers(
    store: UserStore,
    user_ids: list[str],
    batch: Batch,
    *,
    home: Path,
    concurrency: int = CONCURRENCY,
    tracker: UsageTracker | None = None,
) -> AsyncGenerator[UserResult, None]:
    """Queue users for all workers, this process included, and yield what becomes of each.

    If it is stopped, the workers go on.

    Args:
        store: The users' store.
        user_ids: Stored users.
        batch: What to do with them.
        home: The data directory.
        concurrency: Most calls in flight of this process.
        tracker: Counts what all workers pay for the batch from now on.
    """
    worker = Worker(store, home, concurrency=concurrency)
    async with worker.working() as (engine, work):
        chosen = await asyncio.to_thread(longest_waiting_first, store, user_ids)
        batch_id, before = await asyncio.to_thread(engine.batches.open, batch)
        await asyncio.to_thread(partial(tasks.enqueue, store, chosen, batch_id, anew=True))
        waiting = {tasks.task_id(store, user_id, batch_id) for user_id in chosen}
        while waiting:
            if work.done():
                work.result()
            for task in await asyncio.to_thread(tasks.ended, list(waiting)):
                waiting.discard(task.id)
                yield await asyncio.to_thread(_result, store, task)
            if tracker is not None:
                paid = await asyncio.to_thread(engine.batches.paid, batch_id)
                tracker.replay({"batch": paid.less(before)})
                before = paid
            await asyncio.sleep(_POLL_SECONDS if waiting else 0.0)
        await asyncio.to_thread(engine.batches.end, batch_id)


def _result(store: UserStore, task: tasks.Task) -> UserResult:
    status = task.result.get("status")
    if status in ("aligned", "done"):
        row = store.latest_alignment(task.user_id, "done")
        return UserResult(
            user_id=task.user_id,
            status=status,
            record=row.record if row is not None else {},
            persona_version=task.result.get("version"),
        )
    return UserResult(
        user_id=task.user_id,
        status="stopped" if status == "stopped" else "failed",
        error=from_data(task.result) if task.result.get("error") else _cancelled(),
    )


def as_data(error: BaseException, status: str) -> dict[str, Any]:
    """Return a failure as JSON data, without the text of an unexpected error, which may hold a user's."""
    return {"status": status, "error": _line(error), "code": exit_code(error)}


def from_data(data: dict[str, Any]) -> Exception:
    """Return the failure of another process as an error with the same line and exit code."""
    from program import console
    from program.errors import AlignmentFailedError, PersonaAgentError

    kinds: dict[int, type[Exception]] = {console.USAGE: ConfigError, console.MODEL: AlignmentFailedError}
    return kinds.get(int(data.get("code", 1)), PersonaAgentError)(str(data["error"]))


def _cancelled() -> Exception:
    from program.errors import AlignmentCancelledError

    return AlignmentCancelledError("cancelled by `personaagent fleet cancel`")


def _line(error: BaseException) -> str:
    return one_line(explain(error) or f"unexpected {type(error).__name__}", _MAX_ERROR)
