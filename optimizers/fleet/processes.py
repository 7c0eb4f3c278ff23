"""Several processes of one machine share the users of a run: Python computes in one thread at a time.

Each process aligns a share with a part of the calls in flight, and tells its parent what it did. A process
that dies is replaced, and goes on from the finished calls. If the parent dies, its processes end.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from optimizers.config import AlignmentConfig
from optimizers.fleet.counting import counted_together
from optimizers.fleet.engines import open_engine
from optimizers.fleet.order import longest_waiting_first
from optimizers.fleet.users import UserResult, align_users
from program.errors import PersonaAgentError, StoreError
from program.home import home
from program.store import UserStore
from program.usage import Budget, Usage, UsageTracker, configured_lm, current_tracker, track_usage

CALLS_EACH = 64
"""Calls in flight that one process keeps busy against a fast model: it makes about 250 calls a second."""

USERS_EACH = 100
"""Fewer users are not worth the seconds that a process takes to start."""

MOST_PROCESSES = 64
"""Most processes of one run."""

_REPORT_SECONDS = 0.5
_RESTARTS = 3
_LOGGERS = ("personaagent", "dspy")

_processes = multiprocessing.get_context("spawn")


def default_processes(n_users: int, concurrency: int) -> int:
    """Return how many processes are worth their start on this machine, at least 1.

    One for a model that computes in the process: each would load its own.

    Example:
        >>> import dspy
        >>> with dspy.context(lm=dspy.LM("openai/gpt-4o-mini")):
        ...     default_processes(40, 128), default_processes(10_000, 16)
        (1, 1)
    """
    lm = configured_lm()
    if not isinstance(getattr(lm, "_engine_spec", None), str):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, n_users // USERS_EACH, concurrency // CALLS_EACH))


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process does; it is pickled.

    Attributes:
        store: The location of the users' store.
        user_ids: The users.
        config: Settings.
        models: Opens the models; yields the one of feedback and update, or ``None`` for the agent's.
        options: Other arguments of `optimizers.align_users`, but the budget.
        batch_id: What all processes pay is counted as this batch's; empty: it is not counted together.
        budget: Limits of what all processes pay; they need ``batch_id``.
    """

    store: str
    user_ids: Sequence[str]
    config: AlignmentConfig
    models: Callable[[], AbstractContextManager[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_id: str = ""
    budget: Budget = field(default_factory=Budget)


async def align_in_processes(share: Share, n_processes: int) -> AsyncGenerator[UserResult, None]:
    """Align users like `optimizers.align_users`, in several processes.

    What they pay counts in the current tracker, within a second. A process that dies twice without an answer
    in between makes its users fail.

    Args:
        share: The users of all processes, and the calls in flight of all in ``options["concurrency"]``.
        n_processes: Processes, 1 or more; at most one for each user and each call.

    Raises:
        PersonaAgentError: What a process could not start with.
    """
    with UserStore(share.store) as store:
        user_ids = await asyncio.to_thread(longest_waiting_first, store, dict.fromkeys(share.user_ids))
        with open_engine(store, share.options.get("home") or home()):
            pass  # makes the tables, which two processes must not do at once
    concurrency = share.options["concurrency"]
    n_processes = max(1, min(n_processes, len(user_ids), concurrency))
    messages: asyncio.Queue[tuple[_Worker, str, Any]] = asyncio.Queue()
    workers = []
    for number in range(n_processes):
        calls = concurrency // n_processes + (number < concurrency % n_processes)
        part = replace(
            share, user_ids=user_ids[number::n_processes], options={**share.options, "concurrency": calls}
        )
        workers.append(_Worker(part, messages))
    left, stopped = n_processes, False
    try:
        while left:
            worker, kind, content = await messages.get()
            if kind == "result":
                if content.status != "stopped":
                    yield content
                elif not stopped:  # it is the same for all, and is said once
                    stopped = True
                    yield content
            elif kind == "error":
                raise content
            elif kind == "died" and not stopped and worker.restarts():
                worker.start()
            else:
                left -= 1
                for user_id in worker.left if kind == "died" and not stopped else ():
                    yield UserResult(user_id=user_id, status="failed", error=_death(worker))
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            await worker.ended.wait()


def _death(worker: _Worker) -> StoreError:
    return StoreError(
        f"the process that aligns this user died {_RESTARTS} times (exit code {worker.exit_code}): check the "
        f"memory of this machine, or use fewer `--processes`"
    )


class _Worker:
    """One process, as its parent sees it.

    Attributes:
        left: Users of whom nothing is known yet.
        exit_code: Of the latest process that ended; negative for a signal.
        ended: Is set while no process runs.
    """

    def __init__(self, share: Share, messages: asyncio.Queue[Any]) -> None:
        self._share = share
        self._messages = messages
        self._loop = asyncio.get_running_loop()
        self._tracker = current_tracker()
        self._deaths = 0
        self.left = dict.fromkeys(share.user_ids)
        self.exit_code: int | None = None
        self.ended = asyncio.Event()
        self.start()

    def start(self) -> None:
        """Start a process for the users who are left."""
        self.ended.clear()
        self._pipe, pipe = _processes.Pipe()
        self._process = _processes.Process(
            target=_work, args=(replace(self._share, user_ids=list(self.left)), pipe), daemon=True
        )
        self._process.start()
        pipe.close()  # else its end would not be seen
        threading.Thread(target=self._read, daemon=True).start()

    def restarts(self) -> bool:
        """Return whether a process that died is to be replaced."""
        self._deaths += 1
        return bool(self.left) and self._deaths < _RESTARTS

    def stop(self) -> None:
        """Let the process end after the calls in flight."""
        with suppress(OSError):
            self._pipe.send("stop")

    def _read(self) -> None:
        """Pass on what the process sends, in a thread."""
        counted: dict[str, Usage] = {}
        end = "died"
        try:
            while True:
                kind, content = self._pipe.recv()
                if kind == "usage":
                    self._count(counted, content)
                elif kind == "log":
                    name, level, text = content
                    logging.getLogger(name).log(level, "%s", text)
                elif kind == "end":
                    end = "end"
                else:
                    if kind == "result":
                        self._deaths = 0
                        self.left.pop(content.user_id, None)
                    self._send(kind, content)
        except (EOFError, OSError):
            pass
        self._process.join()
        self.exit_code = self._process.exitcode
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.ended.set)  # before a new process may start
        self._send(end, None)

    def _count(self, counted: dict[str, Usage], totals: Mapping[str, Usage]) -> None:
        """Count in the parent's tracker what is new in the totals of a process."""
        news = {}
        for stage, usage in totals.items():
            before = counted.get(stage, Usage())
            news[stage] = Usage(**{name: n - getattr(before, name) for name, n in vars(usage).items()})
        counted.update(totals)
        if self._tracker is not None:
            self._tracker.replay(news)

    def _send(self, kind: str, content: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._messages.put_nowait, (self, kind, content))


def _work(share: Share, pipe: Connection) -> None:
    """Align a share, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and says when to stop
    lock = threading.Lock()

    def send(kind: str, content: Any = None) -> None:
        with lock, suppress(OSError):
            pipe.send((kind, content))

    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Forward(send)], False
    tracker = UsageTracker()
    try:
        with share.models() as prompt_model, UserStore(share.store) as store, track_usage(tracker):
            asyncio.run(_align(share, store, prompt_model, tracker, pipe, send))
    except asyncio.CancelledError:
        pass
    except Exception as error:  # noqa: BLE001 - the parent raises it
        send("error", _portable(error))
    send("usage", tracker.by_stage())
    send("end")
    pipe.close()


async def _align(
    share: Share,
    store: UserStore,
    prompt_model: Any,
    tracker: UsageTracker,
    pipe: Connection,
    send: Callable[..., None],
) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def listen() -> None:
        with suppress(EOFError, OSError):
            pipe.recv()
        # The parent said stop, or is gone.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)

    async def report() -> None:
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            send("usage", tracker.by_stage())

    threading.Thread(target=listen, daemon=True).start()
    reporting = asyncio.create_task(report())
    try:
        async with counted_together(store, share.options.get("home") or home(), share.batch_id, share.budget):
            results = await align_users(
                store, share.user_ids, share.config, prompt_model=prompt_model, **share.options
            )
            async for result in results:
                error = result.error
                send("usage", tracker.by_stage())
                send("result", replace(result, error=None if error is None else _portable(error)))
    finally:
        reporting.cancel()


class _Forward(logging.Handler):
    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("log", (record.name, record.levelno, record.getMessage()))


class _Made:
    """Pickles an error without calling its class again, whose arguments may be other ones."""

    def __init__(self, error: Exception) -> None:
        self._state = type(error), error.args, vars(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, self._state


def _make(kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _portable(error: Exception) -> Any:
    """Return an error as something that is the error again when it is read from a pipe."""
    from multiprocessing.reduction import ForkingPickler

    made = _Made(error)
    try:
        ForkingPickler.dumps(made)
    except Exception:  # noqa: BLE001 - an error may hold anything
        return PersonaAgentError(f"{type(error).__name__}: {error}")
    return made
