"""Queued users: DBOS workflows that any worker may take, cancel, resume, or start by a schedule.

A task says who is to be aligned and for which batch. Its pieces are kept apart, by `optimizers.fleet.engine`:
a task that is taken over goes on from them. Call `open_durable` before anything here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal
from uuid import uuid4

from dbos import DBOS, SetWorkflowID

from optimizers.fleet.alive import Processes
from optimizers.fleet.engine import QUEUE
from optimizers.fleet.place import digest, task_prefix
from program.errors import ConfigError
from program.store import UserStore

_POLL_SECONDS = 0.25
_AT_ONCE = 500

TaskState = Literal["queued", "running", "done", "failed", "stopped", "cancelled"]

_STATES: dict[str, TaskState] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "done",
    "CANCELLED": "cancelled",
}

Runs = Callable[[str, str], Awaitable[dict[str, Any]]]
"""Aligns a user for a batch and returns what became of it, as JSON data."""

Begins = Callable[[str, dict[str, Any]], Awaitable[int]]
"""Begins a scheduled batch: gets its id and its settings as JSON data."""

_runs: Runs | None = None
_begins: Begins | None = None


@DBOS.workflow(name="task", max_recovery_attempts=None)  # type: ignore[untyped-decorator, unused-ignore]
async def _task(user_id: str, batch_id: str) -> dict[str, Any]:
    assert _runs is not None, "only a worker listens to the queue"
    return await _runs(user_id, batch_id)


@DBOS.workflow(name="scheduled", max_recovery_attempts=None)  # type: ignore[untyped-decorator, unused-ignore]
async def _scheduled(at: datetime, settings: dict[str, Any]) -> None:
    assert _begins is not None, "only a worker listens to the queue"
    await _begins(digest(str(DBOS.workflow_id))[:12], settings)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One queued user.

    Attributes:
        id: The task's id in the engine.
        user_id: The user.
        batch_id: The batch that asked for it.
        state: What became of it.
        executor: The process that has it, if any.
        created_at: When it was queued.
        result: What its worker said at its end.
    """

    id: str
    user_id: str
    batch_id: str
    state: TaskState
    executor: str | None
    created_at: datetime
    result: dict[str, Any]


def listen(runs: Runs, begins: Begins) -> None:
    """Set what this worker does with tasks and schedules; call it before the tables are opened."""
    global _runs, _begins
    _runs, _begins = runs, begins


def register(at_once: int) -> None:
    """Create the queue, and set how many users each worker aligns at once."""
    DBOS.register_queue(
        QUEUE, worker_concurrency=at_once, polling_interval_sec=_POLL_SECONDS, on_conflict="always_update"
    )


def task_id(store: UserStore, user_id: str, batch_id: str) -> str:
    """Return the id of the task of a user for a batch."""
    return f"{task_prefix(store, user_id)}{batch_id}"


def enqueue(store: UserStore, user_ids: Iterable[str], batch_id: str, *, anew: bool = False) -> int:
    """Queue users for a batch, first come, first served; return how many were given.

    Args:
        store: The users' store.
        user_ids: The users. Those that the batch has already stay as they are.
        batch_id: The batch.
        anew: Queue users again whose task for this batch has ended.
    """
    chosen = list(user_ids)
    if DBOS.retrieve_queue(QUEUE) is None:
        register(at_once=16)
    ids = {task_id(store, user_id, batch_id) for user_id in chosen}
    users = {name.rpartition("-")[0] for name in ids}
    # The latest task of a user is kept, for `fleet status`; those before it tell nothing any more.
    old = DBOS.list_workflows(
        name="task",
        workflow_id_prefix=task_prefix(store),
        status=["SUCCESS", "ERROR", "CANCELLED"],
        load_input=False,
        load_output=False,
    )
    delete(
        [
            row.workflow_id
            for row in old
            if row.workflow_id.rpartition("-")[0] in users and (anew or row.workflow_id not in ids)
        ]
    )
    for user_id in chosen:
        with SetWorkflowID(task_id(store, user_id, batch_id)):
            DBOS.enqueue_workflow(QUEUE, _task, user_id, batch_id)
    return len(chosen)


def ended(ids: Sequence[str]) -> list[Task]:
    """Return those of these tasks that have ended."""
    rows: list[Any] = []
    for start in range(0, len(ids), _AT_ONCE):
        rows += DBOS.list_workflows(
            workflow_ids=list(ids[start : start + _AT_ONCE]), status=["SUCCESS", "ERROR", "CANCELLED"]
        )
    return [_read(row) for row in rows if row.input]


def tasks(store: UserStore, *, unfinished: bool = False, since: datetime | None = None) -> list[Task]:
    """Return the tasks of a store, oldest first.

    Args:
        store: The users' store.
        unfinished: Only those that wait or are in progress.
        since: Only those queued at this time or later.
    """
    rows = DBOS.list_workflows(
        name="task",
        workflow_id_prefix=task_prefix(store),
        status=["ENQUEUED", "DELAYED", "PENDING"] if unfinished else None,
        start_time=since.isoformat() if since else None,
    )
    return [_read(row) for row in rows if row.input]


def cancel(ids: Sequence[str]) -> None:
    """Cancel tasks or attempts; those in progress end before their next call."""
    for start in range(0, len(ids), _AT_ONCE):
        DBOS.cancel_workflows(list(ids[start : start + _AT_ONCE]))


def resume(ids: Sequence[str]) -> None:
    """Queue cancelled tasks again."""
    for start in range(0, len(ids), _AT_ONCE):
        DBOS.resume_workflows(list(ids[start : start + _AT_ONCE]), queue_name=QUEUE)


def delete(ids: Sequence[str]) -> None:
    """Delete tasks that have ended."""
    for start in range(0, len(ids), _AT_ONCE):
        DBOS.delete_workflows(list(ids[start : start + _AT_ONCE]))


def take_over(processes: Processes, me: str) -> int:
    """Queue the tasks of processes that have ended again, and return how many there were."""
    moved = 0
    for executor in {row.executor_id for row in _begun() if row.executor_id} - {me}:
        with processes.declare_dead(executor) as dead:
            if not dead:
                continue
            # Another worker may have taken some meanwhile: only those that the dead one has now.
            left = _begun(executor)
            resume([row.workflow_id for row in left])
            moved += len(left)
    return moved


def in_progress(executor: str) -> int:
    """Return how many tasks a process has begun and not ended."""
    return len(_begun(executor))


def _begun(executor: str | None = None) -> list[Any]:
    return DBOS.list_workflows(
        name=["task", "scheduled"],
        status="PENDING",
        executor_id=executor,
        load_input=False,
        load_output=False,
    )


def cancelled(ids: Sequence[str]) -> set[str]:
    """Return those of these tasks that somebody cancelled."""
    if not ids:
        return set()
    rows = DBOS.list_workflows(
        workflow_ids=list(ids), status="CANCELLED", load_input=False, load_output=False
    )
    return {row.workflow_id for row in rows}


def schedule(name: str, cron: str, settings: dict[str, Any], timezone_name: str | None) -> None:
    """Begin a batch with these settings at each time of a cron expression; replaces the one of that name.

    Raises:
        ConfigError: The expression or the time zone is invalid.
    """
    if DBOS.retrieve_queue(QUEUE) is None:
        register(at_once=16)
    try:
        before = DBOS.get_schedule(name)
        if before is not None:
            DBOS.delete_schedule(name)
        DBOS.create_schedule(
            schedule_name=name,
            workflow_fn=_scheduled,
            schedule=cron,
            context=settings,
            cron_timezone=timezone_name,
            queue_name=QUEUE,
        )
    except Exception as error:  # DBOS says what is wrong in the text alone
        reason = str(error)
        if "Invalid cron" in reason:
            raise ConfigError(
                f'{cron!r} is not a cron expression; write five fields, such as "0 3 * * *" for 03:00'
            ) from None
        if "Invalid timezone" in reason:
            raise ConfigError(
                f"there is no time zone {timezone_name!r}; write one as Europe/Berlin"
            ) from None
        raise


def unschedule(name: str) -> bool:
    """Delete a schedule, and return whether there was one."""
    if DBOS.get_schedule(name) is None:
        return False
    DBOS.delete_schedule(name)
    return True


def schedules(prefix: str) -> list[dict[str, Any]]:
    """Return the schedules whose names start so: name, cron expression, settings, last time, time zone."""
    return [
        {
            "name": row["schedule_name"],
            "cron": row["schedule"],
            "timezone": row["cron_timezone"] or "UTC",
            "last": row["last_fired_at"],
            "settings": row["context"],
        }
        for row in DBOS.list_schedules(schedule_name_prefix=prefix)
    ]


def new_id() -> str:
    """Return the id of a process or a batch."""
    return uuid4().hex


def _read(row: Any) -> Task:
    user_id, batch_id = (str(value) for value in row.input["args"])
    output = row.output if isinstance(row.output, dict) else {}
    state = _STATES.get(row.status, "failed")
    if state == "done":
        ends: dict[str, TaskState] = {"aligned": "done", "done": "done", "stopped": "stopped"}
        state = ends.get(str(output.get("status")), "failed")
    return Task(
        id=row.workflow_id,
        user_id=user_id,
        batch_id=batch_id,
        state=state,
        executor=row.executor_id,
        created_at=datetime.fromtimestamp((row.created_at or 0) / 1000, timezone.utc),
        result=output,
    )
