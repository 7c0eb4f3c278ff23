"""Look at the alignments of many users, cancel them, try them again, and begin them at fixed times."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optimizers.fleet.alive import Processes
from optimizers.fleet.batch import Batch
from optimizers.fleet.engines import is_durable, open_tables
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.place import FILE, digest, is_sqlite, store_name
from program.errors import ConfigError, UnknownUserError
from program.store import UserStore
from program.usage import Usage

if TYPE_CHECKING:
    from optimizers.fleet.tasks import Task

State = Literal["queued", "running", "interrupted", "failed", "stopped", "cancelled", "done"]

_NAME = "align"


@dataclass(frozen=True, kw_only=True)
class UserState:
    """What became of a user's latest alignment.

    Attributes:
        user_id: The user.
        state: ``queued`` for a worker; ``running`` in any process; ``interrupted`` if that has ended: a
            worker or the next run takes it over; ``stopped`` by a budget or an outage; ``failed``,
            ``cancelled``, ``done``.
        pieces: Finished pieces and calls that are kept.
        started_at: When it was queued or started.
        error: One line about a failure in a worker; empty otherwise.
    """

    user_id: str
    state: State
    pieces: int
    started_at: datetime
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class FleetStatus:
    """The fleet of a store.

    Attributes:
        users: The latest alignment of each user, by user id.
        worker_lives: Whether at least one worker lives.
        schedules: What begins at fixed times: name, cron, timezone, last, settings.
        latest_paid: What the newest batch has paid, by every process.
    """

    users: Sequence[UserState]
    worker_lives: bool
    schedules: Sequence[dict[str, Any]]
    latest_paid: Usage


class Control:
    """The tables of a store's fleet, open. Create it with `open_control`."""

    def __init__(self, store: UserStore, engine: Any, locks: UserLocks, processes: Processes) -> None:
        self._store = store
        self._engine = engine
        self._locks = locks
        self._processes = processes

    def status(self) -> FleetStatus:
        """Return the state of all users who were ever queued or aligned here, workers and schedules."""
        from optimizers.fleet import tasks

        states = {
            attempt.user_id: UserState(
                user_id=attempt.user_id,
                state=attempt.state,
                pieces=attempt.pieces,
                started_at=attempt.started_at,
            )
            for attempt in self._engine.attempts(self._locks)
        }
        for task in tasks.tasks(self._store):
            state = states.get(task.user_id)
            if state is None or task.created_at >= state.started_at or task.state in ("queued", "running"):
                states[task.user_id] = self._of_task(task, state)
            elif task.state in ("failed", "cancelled", "stopped") and state.state == task.state:
                states[task.user_id] = self._of_task(task, state)
        return FleetStatus(
            users=[states[user_id] for user_id in sorted(states)],
            worker_lives=self._processes.any_worker(),
            schedules=tasks.schedules(self._schedule_name()),
            latest_paid=self._engine.batches.latest_paid(),
        )

    def _of_task(self, task: Task, attempt: UserState | None) -> UserState:
        state: State = task.state
        if state == "running" and not self._locks.is_held(task.user_id):
            # Its worker waits for a free place, or has ended.
            state = "queued" if self._processes.any_worker() else "interrupted"
        return UserState(
            user_id=task.user_id,
            state=state,
            pieces=attempt.pieces if attempt else 0,
            started_at=task.created_at,
            error=str(task.result.get("error", "")),
        )

    def cancel(self, user_ids: Collection[str] | None) -> list[str]:
        """Cancel what is queued or running, and return whose; ``None`` for all users.

        Those in progress end before their next call; what is paid is kept.
        """
        from optimizers.fleet import tasks

        wanted = None if user_ids is None else set(user_ids)
        ids: dict[str, list[str]] = {}
        for task in tasks.tasks(self._store, unfinished=True):
            ids.setdefault(task.user_id, []).append(task.id)
        for user_id, attempt_id in self._engine.unfinished():
            ids.setdefault(user_id, []).append(attempt_id)
        chosen = sorted(user_id for user_id in ids if wanted is None or user_id in wanted)
        tasks.cancel([each for user_id in chosen for each in ids[user_id]])
        return chosen

    def worker_lives(self) -> bool:
        """Return whether a worker lives."""
        return self._processes.any_worker()

    def retry(self, user_ids: Sequence[str] = ()) -> list[str]:
        """Queue users again whose alignment failed, stopped, or was cancelled or interrupted.

        Args:
            user_ids: Those of them to queue; empty for all.

        Returns:
            The queued users. They get the settings of the newest batch.

        Raises:
            ConfigError: No batch is known.
            UnknownUserError: A user is not in the store.
        """
        from optimizers.fleet import tasks

        for user_id in user_ids:
            self._store.user(user_id)
        again = {"failed", "stopped", "cancelled", "interrupted"}
        chosen = [
            user.user_id
            for user in self.status().users
            if user.state in again and (not user_ids or user.user_id in user_ids) and self._has(user.user_id)
        ]
        batch = self._engine.batches.latest()
        if not chosen:
            return []
        if batch is None:
            raise ConfigError("no settings are known of an earlier run; use `personaagent align` instead")
        batch_id = tasks.new_id()[:12]
        self._engine.batches.add(batch_id, batch)
        tasks.enqueue(self._store, chosen, batch_id)
        return chosen

    def _has(self, user_id: str) -> bool:
        try:
            self._store.user(user_id)
        except UnknownUserError:
            return False
        return True

    def schedule(self, cron: str, batch: Batch, timezone_name: str | None = None) -> None:
        """Let a worker begin a batch at each time of a cron expression; replaces the one before.

        Raises:
            ConfigError: The expression or the time zone is invalid.
        """
        from optimizers.fleet import tasks

        tasks.schedule(self._schedule_name(), cron, batch.as_dict(), timezone_name)

    def unschedule(self) -> bool:
        """End the schedule, and return whether there was one."""
        from optimizers.fleet import tasks

        return tasks.unschedule(self._schedule_name())

    def _schedule_name(self) -> str:
        return f"{_NAME}-{digest(store_name(self._store))[:12]}"


@contextmanager
def open_control(store: UserStore, home: Path) -> Iterator[Control]:
    """Open the fleet of a store.

    Raises:
        ConfigError: dbos is not installed.
        StoreError: The tables cannot be opened.
    """
    with open_tables(store, home) as engine:
        locks, processes = UserLocks(store, home), Processes(store, home)
        try:
            yield Control(store, engine, locks, processes)
        finally:
            locks.close()
            processes.close()


def is_unused(store: UserStore, home: Path) -> bool:
    """Return whether nothing was ever queued or aligned here."""
    return not (home / FILE).exists() if is_sqlite(store) else not is_durable()
