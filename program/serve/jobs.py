"""Alignments that clients asked for: one batch after the other, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal
from uuid import uuid4

from program.console import explain
from program.serve.contracts import Actions, Outcome
from program.serve.failures import ApiError
from program.store import UserStore
from program.text import one_line

logger = logging.getLogger("personaagent.program.serve")

MOST_WAITING = 10_000
_KEPT = 10_000

JobStatus = Literal["queued", "running", "done", "failed"]


@dataclass(kw_only=True)
class Job:
    """One user's alignment. It is kept in memory: a restart forgets it, but no finished call.

    Attributes:
        persona_version: The user's version at the end; ``None`` before that, or after a failure.
        error: What failed, in one line; empty otherwise.
    """

    id: str = field(default_factory=lambda: uuid4().hex)
    user_id: str
    status: JobStatus = "queued"
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    ended_at: datetime | None = None
    persona_version: int | None = None
    error: str = ""

    def end(self, outcome: Outcome | None, error: str) -> None:
        """Note what became of it."""
        self.ended_at = datetime.now(timezone.utc)
        self.error = error
        self.status = "failed" if error else "done"
        self.persona_version = outcome.persona_version if outcome and not error else None


class Jobs:
    """The alignments of one server. Only the server's event loop uses it.

    Args:
        store: The users' store.
        actions: How to align.
    """

    def __init__(self, store: UserStore, actions: Actions) -> None:
        self._store = store
        self._actions = actions
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._open: dict[str, Job] = {}
        self._wake = asyncio.Event()
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._thread_task: asyncio.Task[None] | None = None
        self._is_stopped = False

    def start(self, user_id: str) -> Job:
        """Queue a user's alignment; a user who is waiting or being aligned keeps that job.

        Raises:
            ApiError: 501 if this server does not align, 429 if too many are waiting.
        """
        if self._actions.align is None:
            raise ApiError(501, "no_alignment", "this server does not align: use `personaagent align`")
        if (job := self._open.get(user_id)) is not None:
            return job
        if len(self._open) >= MOST_WAITING:
            raise ApiError(429, "too_many_jobs", "too many alignments wait; try again later")
        job = Job(user_id=user_id)
        self._jobs[job.id] = self._open[user_id] = job
        while len(self._jobs) > _KEPT + len(self._open):
            oldest = next(name for name, each in self._jobs.items() if each.ended_at is not None)
            del self._jobs[oldest]
        self._wake.set()
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job; ``None`` if it is unknown."""
        return self._jobs.get(job_id)

    def latest(self, limit: int, *, user_id: str | None = None) -> list[Job]:
        """Return the newest jobs first, of one user or of all."""
        jobs = [job for job in reversed(self._jobs.values()) if user_id in (None, job.user_id)]
        return jobs[:limit]

    @property
    def running(self) -> bool:
        """Whether users are being aligned now."""
        return any(job.status == "running" for job in self._open.values())

    def drop_user(self, user_id: str) -> None:
        """Forget the jobs of a user."""
        self._open.pop(user_id, None)
        for job in [job for job in self._jobs.values() if job.user_id == user_id]:
            del self._jobs[job.id]

    async def work(self) -> None:
        """Align who waits, until it is cancelled; the batch in progress is then stopped."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting = [job for job in self._open.values() if job.status == "queued"]
            if waiting:
                await self._run(waiting)

    async def _run(self, batch: list[Job]) -> None:
        jobs = {job.user_id: job for job in batch}
        for job in batch:
            job.status = "running"
        loop = asyncio.get_running_loop()

        def ended(outcome: Outcome) -> None:
            loop.call_soon_threadsafe(self._end, jobs[outcome.user_id], outcome, _reason(outcome))

        failure = "it ended without a result; ask for it again"
        thread = asyncio.create_task(asyncio.to_thread(self._align, list(jobs), ended))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            self._stop()
            await asyncio.gather(thread, return_exceptions=True)
            raise
        except Exception as error:  # noqa: BLE001 - the server goes on, and the jobs say what failed
            failure = explain(error) or type(error).__name__
            logger.error("failed", extra={"fields": {"error": type(error).__name__, "at": "alignment"}})
        finally:
            await asyncio.sleep(0)  # outcomes that are still on their way
            for job in batch:
                if job.ended_at is None:
                    self._end(job, None, failure)

    def _align(self, user_ids: list[str], ended: Callable[[Outcome], None]) -> None:
        """Align users in this thread."""

        async def align() -> None:
            assert self._actions.align is not None
            self._thread_loop, self._thread_task = asyncio.get_running_loop(), asyncio.current_task()
            if self._is_stopped:  # before there was a task to cancel
                return
            outcomes = await self._actions.align(
                self._store, user_ids, lm=self._actions.lm, wikipedia=self._actions.wikipedia
            )
            async for outcome in outcomes:
                ended(outcome)

        try:
            asyncio.run(align())
        finally:
            self._thread_loop = self._thread_task = None

    def _stop(self) -> None:
        self._is_stopped = True
        loop, task = self._thread_loop, self._thread_task
        if loop is not None and task is not None:
            loop.call_soon_threadsafe(task.cancel)

    def _end(self, job: Job, outcome: Outcome | None, error: str) -> None:
        job.end(outcome, error)
        if self._open.get(job.user_id) is job:
            del self._open[job.user_id]


def _reason(outcome: Outcome) -> str:
    if outcome.error is None:
        return "" if outcome.status in ("aligned", "done") else outcome.status
    return one_line(explain(outcome.error) or type(outcome.error).__name__, 300)
