"""Durable pieces by DBOS: workflows and steps in tables, read again after a crash.

One workflow is one attempt at an alignment. Its id is the user and a hash of what would be learned, and its
steps are the finished pieces, by name. The next attempt at the same work reads the steps of those before it;
one that ends well deletes its steps and the user's older attempts. `optimizers.fleet.locks` tells which are
alive.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID
from dbos import error as dbos_errors
from sqlalchemy import Engine, MetaData, Table, create_engine, event, func, select

from optimizers.contracts import Journal
from optimizers.fleet.batches import Batches, errors_reported
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.place import FILE, is_sqlite, server_url, store_name, task_prefix, user_prefix
from optimizers.fleet.steps import FinishedStep, StepWriter
from optimizers.interrupts import to_its_end
from program.errors import (
    AlignmentCancelledError,
    AlignmentFailedError,
    ConfigError,
    StoreError,
    UnknownUserError,
)
from program.side_files import make_private
from program.store import UserStore

QUEUE = "personaagent"
"""The queue of users, which only workers listen to."""

VERSION = "pieces-1"
"""The format of the pieces. Attempts of another format are not read."""

_SKEW = timedelta(seconds=60)
"""How much the clocks of two hosts may differ."""

_POOL = 4
_SCHEMA = "personaagent_fleet"
_FIRST_STEP = 1_000_000
"""DBOS numbers what it does in a workflow itself, from 1."""

_SERIALIZER = DBOSPortableJSONSerializer()

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


class DurableJournal:
    """Keeps each finished piece as a step of a workflow.

    Args:
        kept: Steps of earlier attempts, by name.
        workflow_id: The workflow of this attempt.
        writer: Writes its steps.
    """

    def __init__(self, kept: dict[str, str], workflow_id: str, writer: StepWriter) -> None:
        self._kept = kept
        self._workflow_id = workflow_id
        self._writer = writer
        self._step = _FIRST_STEP
        self._latest: dict[str, _Written] = {}

    async def run(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what the piece returned; run it first if it is not finished."""
        if name in self._kept:
            return json.loads(self._kept[name])
        try:
            output = json.dumps(await work())
        except BaseException:  # an interrupt, too, must not lose the call that was paid
            await self._latest_stored(name)
            raise
        if latest := self._latest.pop(name, None):
            self._writer.withdraw(latest.step)
        await self._stored(self._write(name, output))
        return json.loads(output)

    async def run_call(self, piece: str, number: int, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what a call of a piece returned; make it first if it is not finished.

        A reply is written at once, and is stored when the next call of its piece begins. The last one need
        not be: the piece itself is then finished.
        """
        name = f"{piece}/call {number}"
        if name in self._kept:
            return json.loads(self._kept[name])
        await self._latest_stored(piece)
        output = json.dumps(await work())
        self._latest[piece] = self._write(name, output)
        return json.loads(output)

    async def _latest_stored(self, piece: str) -> None:
        if latest := self._latest.pop(piece, None):
            await self._stored(latest)

    def _write(self, name: str, output: str) -> _Written:
        self._kept[name] = output
        self._step += 1
        step = FinishedStep(workflow_id=self._workflow_id, number=self._step, name=name, output=output)
        return _Written(step, self._writer.add(step))

    async def _stored(self, written: _Written) -> None:
        if not await to_its_end(written.end()):
            raise dbos_errors.DBOSWorkflowCancelledError(f"workflow {self._workflow_id} is cancelled")


@dataclass(frozen=True)
class _Written:
    """A step that is on its way to the table."""

    step: FinishedStep
    stored: asyncio.Future[bool]

    async def end(self) -> bool:
        return await self.stored


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One alignment as the fleet knows it.

    Attributes:
        user_id: The user.
        state: ``running`` in any process; ``interrupted`` if that has ended: the next run takes it over.
        pieces: Finished pieces and calls.
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
        self._tables = _StepTables(engine)
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
        if found := await asyncio.to_thread(self._tables.workflows_of, prefix):
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
        await asyncio.to_thread(self._tables.drop_steps, workflow_id)

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
        schema = None if is_sqlite(self._store) else _SCHEMA
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


class _StepTables:
    """The documented tables of DBOS that hold the steps and the states of workflows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        schema = None if engine.dialect.name == "sqlite" else _SCHEMA
        with errors_reported():
            self._steps, self._workflows = (
                Table(name, MetaData(), schema=schema, autoload_with=engine)
                for name in ("operation_outputs", "workflow_status")
            )

    def workflows_of(self, prefix: str) -> list[str]:
        """Return the ids that begin so. DBOS's own search by prefix reads the whole table, for each user."""
        column = self._workflows.c.workflow_uuid
        # Ids are hexadecimal digits and hyphens: in the order of any language "z" comes after both.
        query = select(column).where(column.between(prefix, f"{prefix}z"))
        with errors_reported(), self._engine.connect() as connection:
            return [name for name in connection.execute(query).scalars() if name.startswith(prefix)]

    def drop_steps(self, workflow_id: str) -> None:
        """Delete the steps of a workflow that ended well: nobody reads them, and they hold a user's texts."""
        with errors_reported(), self._engine.begin() as connection:
            connection.execute(self._steps.delete().where(self._steps.c.workflow_uuid == workflow_id))

    def counts(self) -> dict[str, int]:
        """Return the number of steps of each workflow that has any."""
        column = self._steps.c.workflow_uuid
        with errors_reported(), self._engine.connect() as connection:
            rows = connection.execute(select(column, func.count()).group_by(column))
            return {workflow_id: n for workflow_id, n in rows}

    def write(self, steps: Sequence[FinishedStep]) -> set[str]:
        """Write steps, and return the workflows that somebody cancelled."""
        rows = [
            {
                "workflow_uuid": step.workflow_id,
                "function_id": step.number,
                "function_name": step.name,
                "output": _SERIALIZER.serialize(step.output),
                "serialization": _SERIALIZER.name(),
                "started_at_epoch_ms": step.finished_at,
                "completed_at_epoch_ms": step.finished_at,
            }
            for step in steps
        ]
        columns = self._workflows.c
        cancelled = select(columns.workflow_uuid).where(
            columns.workflow_uuid.in_({step.workflow_id for step in steps}), columns.status == "CANCELLED"
        )
        with errors_reported(), self._engine.begin() as connection:
            connection.execute(self._steps.insert(), rows)
            return set(connection.execute(cancelled).scalars())


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
        engine.dispose()


def _launch(url: str, worker: str) -> _Opened:
    engine = _engine(url)
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        # DBOS would add one that keeps the stderr of this moment, and write users' texts to it.
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    config: DBOSConfig = {
        "name": "personaagent",
        "system_database_url": url,
        "system_database_engine": engine,
        "dbos_system_schema": _SCHEMA,
        # Its default serializer is pickle.
        "serializer": _SERIALIZER,
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
            f"and `{FILE}` in the data directory or the schema `{_SCHEMA}` of the database"
        ) from error
    return _Opened(url, engine, dbos)


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(
            url, pool_size=_POOL, max_overflow=_POOL, pool_pre_ping=True, hide_parameters=True
        )
    path = Path(url.removeprefix("sqlite:///"))
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    make_private(path)
    engine = create_engine(url, pool_size=_POOL, max_overflow=0, pool_timeout=600, hide_parameters=True)
    event.listen(engine, "connect", _on_connect)
    return engine


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    for pragma in (
        "busy_timeout=30000",
        "journal_mode=WAL",
        # A crash of the machine may lose the latest pieces, which are then paid again; one of the process
        # loses nothing.
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
