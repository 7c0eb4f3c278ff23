"""Runs every method on every query of every user, in threads, and saves each answer with its cost.

One job is one method and one user. Jobs run in parallel; the queries of a job run one after the other.
`eval.user_view` decides what a method sees of a user.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.attempt import Attempt, run_attempt
from eval.contracts import Answer, EvalUser, Method, Query, UserView
from eval.records import AnswerRecord, Manifest, PrepareRecord, read_forgotten
from eval.run_folder import RunFolder
from eval.user_view import scan_users, user_views, with_others
from program.errors import BudgetExceededError, ConfigError
from program.spans import tracing
from program.store.tombstones import user_digest
from program.task import Task
from program.text import counted
from program.usage import Budget, Usage, UsageTracker, current_tracker


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a run. They never change an answer.

    Attributes:
        threads: Jobs that run at the same time.
        max_calls: Most model calls of the run folder, over all resumes; ``None`` for no limit.
        max_usd: Most US dollars of the run folder, over all resumes; ``None`` for no limit.
        give_up_after: Consecutive failures after which a method is skipped.

    Raises:
        ConfigError: ``threads`` or ``give_up_after`` is below 1.

    Example:
        >>> limits = Limits(threads=4, max_calls=1000)
        >>> limits.remaining(Usage(calls=250))
        Budget(max_calls=750, max_usd=None)
    """

    threads: int = 1
    max_calls: int | None = None
    max_usd: float | None = None
    give_up_after: int = 10

    def __post_init__(self) -> None:
        for name in ("threads", "give_up_after"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be 1 or more, got {getattr(self, name)!r}")

    def remaining(self, spent: Usage) -> Budget:
        """Return the budget that is left after ``spent``; never negative."""
        calls = None if self.max_calls is None else max(0, self.max_calls - spent.calls)
        usd = None if self.max_usd is None else max(0.0, self.max_usd - spent.usd)
        return Budget(max_calls=calls, max_usd=usd)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; the answers are in its folder.

    Attributes:
        answered: Number of answers in the folder, by method.
        failed: Number of failed attempts of this run, by method and kind of error.
        errors: The last error of each method that failed.
        given_up: Methods that were skipped after too many consecutive failures.
        stopped: Why the run ended early; ``None`` if every query was attempted.
        expected: Number of queries, and so of answers that a complete method has.
    """

    answered: Mapping[str, int]
    failed: Mapping[str, Mapping[str, int]]
    errors: Mapping[str, Exception]
    given_up: frozenset[str]
    stopped: BaseException | None
    expected: int

    @property
    def complete(self) -> bool:
        """Whether every method has answered every query."""
        return all(count == self.expected for count in self.answered.values())


def run_methods(
    data: Iterable[EvalUser],
    methods: Mapping[str, Method],
    *,
    task: Task,
    manifest: Manifest,
    out: Path,
    lm: Any = None,
    limits: Limits | None = None,
    tracker: UsageTracker | None = None,
    on_plan: Callable[[int], None] = lambda _: None,
    on_answer: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Let every method answer every query, and save the answers in the folder ``out``.

    Resumes an existing run folder: completed work is skipped, failures are retried, interrupted jobs
    restart. A killed process loses at most one preparation or answer for each thread; calls of it that
    are in DSPy's cache cost nothing the second time. Single model calls are retried by DSPy.

    Args:
        data: The users; iterated twice. Those who were forgotten in ``out`` are left out.
        methods: By the labels of the manifest.
        task: The task of the users.
        manifest: Every setting of the run (`eval.manifest.make_manifest`).
        out: The run folder; created if it does not exist.
        lm: The model; ``None`` if no method needs one.
        limits: Threads and budgets; ``None`` for one thread and no budget.
        tracker: Counts all calls, to show progress; its own budget holds as well.
        on_plan: Called once with the number of missing answers.
        on_answer: Called after each attempt to answer, with the method's label, from any thread.

    Raises:
        ConfigError: A method does not fit the task, or ``out`` belongs to another run.
        DataError: The data cannot be read, or a history is not older than its queries.
    """
    for method in methods.values():
        method.check(task)
    data = _Remembered(data, read_forgotten(out))
    queries, responses = scan_users(data, task)
    with RunFolder(out, manifest, queries) as folder:
        counts = folder.count_answers()
        on_plan(len(queries) * len(methods) - sum(counts[label] for label in methods))
        limits = limits or Limits()
        run_tracker = _RunTracker(limits.remaining(folder.spent), parent=tracker or current_tracker())
        run = _Run(folder, methods, limits, run_tracker, lm, on_answer)
        run.serve_users(user_views(data, task, manifest.seed, responses))
        return run.outcome(len(queries))


@dataclass(frozen=True)
class _Remembered:
    """The users of a data set but those who were forgotten in the run folder (`eval.forget`)."""

    data: Iterable[EvalUser]
    forgotten: frozenset[str]

    def __iter__(self) -> Iterator[EvalUser]:
        for user in self.data:
            if not self.forgotten or user_digest(user.user_id) not in self.forgotten:
                yield user


class _Run:
    """A run in progress; its threads share it."""

    def __init__(
        self,
        folder: RunFolder,
        methods: Mapping[str, Method],
        limits: Limits,
        tracker: _RunTracker,
        lm: Any,
        on_answer: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._methods = methods
        self._limits = limits
        self._tracker = tracker
        self._lm = lm
        self._on_answer = on_answer
        self._lock = threading.Lock()
        self._stop_reason: BaseException | None = None
        self._consecutive_failures: Counter[str] = Counter()
        self._failures: dict[str, Counter[str]] = {}
        self._errors: dict[str, Exception] = {}
        self._given_up: set[str] = set()

    def serve_users(self, users: Iterable[tuple[UserView, Sequence[Query]]]) -> None:
        """Run one job for each user and method, ``limits.threads`` at a time."""
        # A bounded queue, so that the data are not read faster than they are used.
        slots = threading.Semaphore(2 * self._limits.threads)
        errors: list[BaseException] = []

        def finish(job: Future[None]) -> None:
            if (error := job.exception()) is not None:
                errors.append(error)
                self._stop(error)
            slots.release()

        with ThreadPoolExecutor(self._limits.threads, "eval") as pool:
            try:
                jobs = ((label, *views) for views in with_others(users) for label in self._methods)
                for label, user, queries, other in jobs:
                    slots.acquire()
                    if self._stop_reason:
                        break
                    job = pool.submit(copy_context().run, self._serve_user, label, user, queries, other)
                    job.add_done_callback(finish)
            except BaseException as error:  # an interrupt, too, must end the jobs
                # The pool waits for its jobs, which now end before their next call.
                self._stop(error)
                raise
        if errors:
            raise errors[0]

    def outcome(self, expected: int) -> Outcome:
        """Return how the run ended."""
        counts = self._folder.count_answers()
        return Outcome(
            answered={label: counts[label] for label in self._methods},
            failed={label: dict(kinds) for label, kinds in self._failures.items()},
            errors=self._errors,
            given_up=frozenset(self._given_up),
            stopped=self._stop_reason,
            expected=expected,
        )

    def _serve_user(
        self, label: str, user: UserView, queries: Sequence[Query], other: UserView | None
    ) -> None:
        missing = [query for query in queries if not self._folder.has_answer(label, user.user_id, query.id)]
        if not missing or self._should_skip(label):
            return
        method = self._methods[label]
        with tracing(None) if method.trivial else nullcontext():
            self._answer_queries(label, method, user, missing, other)

    def _answer_queries(
        self, label: str, method: Method, user: UserView, queries: Sequence[Query], other: UserView | None
    ) -> None:
        prepared = self._prepare(label, method, user, other)
        for query in queries:
            if self._should_skip(label):
                return
            if prepared.failed is not None:
                self._save_answer(label, query, Attempt(failed=prepared.failed))
                continue
            attempt = run_attempt(
                "answer",
                partial(_answer_query, method, prepared.result, query),
                tracker=self._tracker,
                lm=self._lm,
                user_id=user.user_id,
                seed=user.seed,
                method=label,
                query_id=query.id,
            )
            self._count(label, attempt)
            self._save_answer(label, query, attempt)

    def _prepare(self, label: str, method: Method, user: UserView, other: UserView | None) -> Attempt[Any]:
        """Call the method's ``prepare`` unless its result is stored, then ``open``."""
        user_id = user.user_id
        view = other if getattr(method, "learns_from_other", False) else user
        learned = self._folder.learned(label, user_id)
        if learned is None:
            # The JSON round trip gives `open` the same input as in a resumed run.
            attempt = run_attempt(
                "prepare",
                lambda: json.loads(json.dumps(dict(method.prepare(_existing(view))))),
                tracker=self._tracker,
                lm=self._lm,
                user_id=user_id,
                seed=user.seed,
                method=label,
            )
            self._count(label, attempt)
            self._folder.append(
                PrepareRecord(
                    method=label,
                    user_id=user_id,
                    learned=attempt.result,
                    failed=attempt.failed,
                    usage=attempt.usage,
                    seconds=attempt.seconds,
                    prompts=attempt.prompts,
                )
            )
            if attempt.failed is not None:
                return attempt
            learned = attempt.result or {}
        with tracing(None):
            prepared = run_attempt(
                "prepare",
                lambda: method.open(user, learned),
                tracker=self._tracker,
                lm=self._lm,
                user_id=user_id,
            )
        if prepared.failed is not None:
            self._count(label, prepared)
        return prepared

    def _save_answer(self, label: str, query: Query, attempt: Attempt[Answer]) -> None:
        answer: dict[str, Any] = {} if attempt.result is None else vars(attempt.result)
        self._folder.append(
            AnswerRecord(
                method=label,
                user_id=query.user_id,
                query_id=query.id,
                failed=attempt.failed,
                usage=attempt.usage,
                seconds=attempt.seconds,
                prompts=attempt.prompts,
                **answer,
            )
        )
        self._on_answer(label)

    def _count(self, label: str, attempt: Attempt[Any]) -> None:
        """Count a failure; give up the method, or stop the run, if it cannot succeed."""
        with self._lock:
            if attempt.cause is None or attempt.failed is None:
                # A preparation is not a success: its user may still get no answer.
                if isinstance(attempt.result, Answer):
                    self._consecutive_failures[label] = 0
                return
            self._errors[label] = attempt.cause
            self._consecutive_failures[label] += 1
            self._failures.setdefault(label, Counter())[attempt.failed.kind] += 1
            if attempt.fatal:
                self._stop(attempt.cause)
            elif self._consecutive_failures[label] >= self._limits.give_up_after:
                self._given_up.add(label)

    def _stop(self, reason: BaseException) -> None:
        self._stop_reason = self._stop_reason or reason
        self._tracker.stopped = True

    def _should_skip(self, label: str) -> bool:
        if self._stop_reason is None:
            self._check_budget()
        return self._stop_reason is not None or label in self._given_up

    def _check_budget(self) -> None:
        """Stop at the limits even if a method's calls are not reserved."""
        budget, used = self._tracker.budget, self._tracker.total()
        if budget.max_calls is not None and used.calls >= budget.max_calls:
            limit = counted(self._limits.max_calls or 0, "call")
            self._stop(BudgetExceededError(f"the limit of {limit} is reached"))
        elif budget.max_usd is not None and used.usd >= budget.max_usd:
            self._stop(BudgetExceededError(f"the limit of ${self._limits.max_usd} is reached"))
        try:
            budget.check_prices(used.unpriced)
        except BudgetExceededError as error:
            self._stop(error)


class _RunTracker(UsageTracker):
    """The run's tracker. After a stop it refuses every call, so that running jobs end as well."""

    stopped = False

    def reserve(self) -> None:
        if self.stopped:
            raise BudgetExceededError("the run has stopped")
        super().reserve()


def _existing(view: UserView | None) -> UserView:
    if view is None:
        raise ConfigError("a method that learns from another user needs data of two users or more")
    return view


def _answer_query(method: Method, prepared: Any, query: Query) -> Answer:
    """Return a method's answer to a query without its gold; `TypeError` if it cannot be stored."""
    answer = method.answer(prepared, replace(query, gold=None))
    if not isinstance(answer, Answer):
        raise TypeError(f"`{method.name}` must return an `Answer`, got {type(answer).__name__}")
    json.dumps([answer.text, answer.steps, answer.probabilities])
    return answer
