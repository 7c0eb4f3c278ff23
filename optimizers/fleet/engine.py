"""Durable pieces by DBOS: workflows and steps in tables, read again after a crash.

One workflow is one attempt at an alignment. Its id is the user and a hash of what would be learned, and its
steps are the finished pieces, by name. The next attempt at the same work reads the steps of those before it;
one that ends well deletes its steps and the user's older attempts. `optimizers.fleet.locks` tells which are
alive.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from dbos import DBOS, DBOSConfig, SetWorkflowID
from dbos import error as dbos_errors
from sqlalchemy import Engine

from optimizers.contracts import Journal
from optimizers.fleet.batches import Batches
from optimizers.fleet.durable_journal import DurableJournal
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.place import FILE, is_sqlite, server_url, store_name, task_prefix, user_prefix
from optimizers.fleet.steps import StepWriter
from optimizers.fleet.tables import SCHEMA, SERIALIZER, StepTables, open_database
from optimizers.interrupts import to_its_end
from program.errors import (
    AlignmentCancelledError,
    AlignmentFailedError,
    ConfigError,
    StoreError,
    UnknownUserError,
)
from program.store import UserStore

QUEUE = "personaagent"
"""The queue of users, which only workers listen to."""

VERSION = "pieces-1"
"""The format of the pieces. Attempts of another format are not read."""

_LAST_READS = 10.0
"""Seconds that closing waits for threads that still read."""

_SKEW = timedelta(seconds=60)
"""How much the clocks of two hosts may differ."""

State = Literal["done", "failed", "running", "interrupted", "cancelled"]


@dataclass(frozen=True)
class _Opened:
    url: str
    engine: Engine
    dbos: DBOS


_open: _Opened | None = None
_users_of_it = 0
_guard = threading.Lock()
_jobs: dict[str, Callable[[], Awaitable[None]]] = {}


class AttemptFailed(Exception):
    """An attempt ended with an error; the message is its type alone, without a user's text."""


@DBOS.workflow(name="align")  # type: ignore[untyped-decorator, unused-ignore]
async def _attempt(user_id: str) -> str:
    """Run one attempt. What it does is in this process alone: `_jobs` has it by the workflow's id."""
    await _jobs[str(DBOS.workflow_id)]()
    return user_id


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One alignment as the fleet knows it.

    Attributes:
        user_id: The user.
        state: ``running`` in any process; ``interrupted`` if that has ended: the next run takes it over.
        pieces: Finished pieces and calls that are kept: none if it is done.
        started_at: When it started.
    """

    user_id: str
    state: State
    pieces: int
    started_at: datetime


class DurableEngine:
    """Runs alignments as workflows. Create it with `open_durable`."""

    def __init__(self, store: UserStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._tables = StepTables(engine)
        self._writer = StepWriter(self._tables.write)

    async def run(self, user_id: str, key: str, work: Callable[[Journal], Awaitable[None]]) -> None:
        """Run an attempt with the pieces of those before it. The user's lock must be held.

        Args:
            user_id: The user.
            key: A hash of what would be learned.
            work: Aligns the user with a journal.
        """
        prefix = user_prefix(self._store, user_id)
        rows: list[Any] = []
        # To their ends: the tables are closed after an interrupt, and no thread may still use them.
        if found := await to_its_end(asyncio.to_thread(self._tables.workflows_of, prefix)):
            rows = await DBOS.list_workflows_async(workflow_ids=found, load_input=False, app_version=VERSION)
        ids = [row.workflow_id for row in rows]
        self._end_running(user_id, [row for row in rows if row.status == "PENDING"])
        same = [row for row in rows if row.workflow_id.startswith(f"{prefix}{key}")]
        kept: dict[str, str] = {}
        for row in same:
            steps = await DBOS.list_workflow_steps_async(row.workflow_id)
            kept |= {step["function_name"]: step["output"] for step in steps if step["output"]}
            if row.status == "SUCCESS" or str(row.error) == AlignmentFailedError.__name__:
                kept = {}  # it is to be done anew, or its answers are of no use
        workflow_id = f"{prefix}{key}" + (f"-{uuid4().hex[:8]}" if same else "")
        failure: list[Exception] = []

        async def attempt() -> None:
            try:
                await work(DurableJournal(kept, workflow_id, self._writer))
            except Exception as error:  # noqa: BLE001 - it is raised again below
                failure.append(error)
                # An error may hold a user's text, or fail to print; the tables need neither.
                raise AttemptFailed(type(error).__name__) from None

        _jobs[workflow_id] = attempt
        try:
            with SetWorkflowID(workflow_id):
                await _attempt(user_id)
        except AttemptFailed:
            raise failure[0] from None
        except (
            dbos_errors.DBOSWorkflowCancelledError,
            dbos_errors.DBOSAwaitedWorkflowCancelledError,
        ):
            raise AlignmentCancelledError("cancelled by `personaagent fleet cancel`") from None
        finally:
            del _jobs[workflow_id]
        if ids:
            await DBOS.delete_workflows_async(ids)
        await to_its_end(asyncio.to_thread(self._tables.drop_steps, workflow_id))

    def end_dead(self, locks: UserLocks) -> None:
        """End the running alignments of processes that ended, on whatever host."""
        for row in self._unfinished():
            user_id = str(row.input["args"][0])
            with locks.hold(user_id) as free:
                if free:
                    self._end_running(user_id, [row])

    def _unfinished(self) -> list[Any]:
        whole_store = user_prefix(self._store, "").split("-")[0]
        rows = DBOS.list_workflows(workflow_id_prefix=f"{whole_store}-", status="PENDING", load_output=False)
        return [row for row in rows if row.input]

    def _end_running(self, user_id: str, attempts: list[Any]) -> None:
        """End what attempts without an end left running; the user's lock is held."""
        for row in attempts:
            started = datetime.fromtimestamp((row.created_at or 0) / 1000, timezone.utc)
            with suppress(UnknownUserError):
                self._store.interrupt_alignments(user_id, since=started - _SKEW)

    def unfinished(self) -> list[tuple[str, str]]:
        """Return the users and ids of the attempts without an end."""
        return [(str(row.input["args"][0]), row.workflow_id) for row in self._unfinished()]

    @property
    def batches(self) -> Batches:
        """The batches of the store."""
        schema = None if is_sqlite(self._store) else SCHEMA
        return Batches(self._engine, schema, store_name(self._store))

    def stop_taking(self) -> None:
        """Take no queued user any more; those in progress go on."""
        if _open is not None:
            for ends in _open.dbos.background_thread_stop_events:
                ends.set()

    def forget(self, user_id: str) -> int:
        """Delete a user's workflows with all their texts, and return how many there were."""
        rows = DBOS.list_workflows(
            workflow_id_prefix=[user_prefix(self._store, user_id), task_prefix(self._store, user_id)],
            load_input=False,
            load_output=False,
        )
        if rows:
            DBOS.delete_workflows([row.workflow_id for row in rows])
        if is_sqlite(self._store):
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(rows)

    def attempts(self, locks: UserLocks) -> list[Attempt]:
        """Return the latest attempt of each user of the store, by user id."""
        store_prefix = user_prefix(self._store, "").split("-")[0]
        rows = DBOS.list_workflows(workflow_id_prefix=f"{store_prefix}-", load_output=False)
        latest: dict[str, Any] = {}
        for row in sorted(rows, key=lambda row: row.created_at or 0):
            latest[str(row.input["args"][0]) if row.input else ""] = row
        pieces = self._tables.counts()
        return [
            self._describe(user_id, row, pieces.get(row.workflow_id, 0), locks)
            for user_id, row in sorted(latest.items())
        ]

    def _describe(self, user_id: str, row: Any, pieces: int, locks: UserLocks) -> Attempt:
        states: dict[str, State] = {"SUCCESS": "done", "ERROR": "failed", "CANCELLED": "cancelled"}
        state = states.get(row.status) or ("running" if locks.is_held(user_id) else "interrupted")
        return Attempt(
            user_id=user_id,
            state=state,
            pieces=pieces,
            started_at=datetime.fromtimestamp((row.created_at or 0) / 1000, timezone.utc),
        )


@contextmanager
def open_durable(store: UserStore, home: Path, *, worker: str = "") -> Iterator[DurableEngine]:
    """Open the tables of the fleet: in the data directory, or in the database of a store on a server.

    Args:
        store: The users' store.
        home: The data directory.
        worker: The id of a process that takes queued users; empty for one that does not.

    Raises:
        ConfigError: This process has opened others, or uses DBOS itself, or becomes a worker too late.
        StoreError: The tables cannot be opened.
    """
    global _open, _users_of_it
    url = f"sqlite:///{home / FILE}" if is_sqlite(store) else server_url(store)
    with _guard:
        if _open is None:
            _open = _launch(url, worker)
        elif worker:
            raise ConfigError("this process has begun to align users itself; start a worker in another one")
        if _open.url != url:
            raise ConfigError("this process aligns the users of another store now; wait for that")
        _users_of_it += 1
        engine = _open.engine
    try:
        yield DurableEngine(store, engine)
    finally:
        with _guard:
            _users_of_it -= 1
            if _users_of_it == 0:
                _open = None
                _close(engine)


def _close(engine: Engine) -> None:
    try:
        DBOS.destroy()
    finally:
        # A thread that a cancelled task has left may still read; its connection would stay open.
        end = time.monotonic() + _LAST_READS
        while engine.pool.checkedout() and time.monotonic() < end:  # type: ignore[attr-defined]
            time.sleep(0.005)
        engine.dispose()


def _launch(url: str, worker: str) -> _Opened:
    engine = open_database(url)
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        # DBOS would add one that keeps the stderr of this moment, and write users' texts to it.
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    config: DBOSConfig = {
        "name": "personaagent",
        "system_database_url": url,
        "system_database_engine": engine,
        "dbos_system_schema": SCHEMA,
        "serializer": SERIALIZER,
        "application_version": VERSION,
        # No two processes share it: DBOS must not start attempts of a dead one on its own.
        "executor_id": worker or uuid4().hex,
        "log_level": "CRITICAL",
        "enable_otlp": False,
    }
    try:
        dbos = DBOS(config=config)
        DBOS.listen_queues([QUEUE] if worker else [])
        DBOS.launch()
    except Exception as error:  # DBOS lets any error of the database or its own through
        _close(engine)
        raise StoreError(
            f"the tables of durable alignments cannot be opened ({type(error).__name__}): check the disk, "
            f"and `{FILE}` in the data directory or the schema `{SCHEMA}` of the database"
        ) from error
    return _Opened(url, engine, dbos)
