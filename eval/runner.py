"""Users x methods x queries: every answer kept with its cost, resumable, failures are values.

One job is one method serving one user; jobs run in threads, the queries of a job one after the
other. What a method may see of a user is decided in `eval.user_view`.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.attempt import Attempt, attempt
from eval.contracts import Answer, EvalUser, Method, Query, UserView
from eval.records import AnswerRecord, Manifest, PrepareRecord
from eval.run_folder import RunFolder
from eval.user_view import survey, user_views
from program.errors import BudgetExceededError, ConfigError
from program.spans import tracing
from program.task import Task
from program.usage import Budget, Usage, UsageTracker, current_tracker


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a run is carried out; nothing here changes an answer.

    Attributes:
        threads: Jobs at the same time.
        max_calls: Most model calls that the run folder may cost, over all its restarts.
        max_usd: Most money that the run folder may cost, over all its restarts.
        give_up_after: A method is left alone after this many failures in a row.
    """

    threads: int = 1
    max_calls: int | None = None
    max_usd: float | None = None
    give_up_after: int = 10

    def __post_init__(self) -> None:
        for name in ("threads", "give_up_after"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be 1 or more, got {getattr(self, name)!r}")

    def left(self, spent: Usage) -> Budget:
        """Return the budget of a run whose folder has already cost ``spent``."""
        calls = None if self.max_calls is None else max(0, self.max_calls - spent.calls)
        usd = None if self.max_usd is None else max(0.0, self.max_usd - spent.usd)
        return Budget(max_calls=calls, max_usd=usd)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; the answers are in its folder.

    Attributes:
        answered: Answers in the folder, by method.
        failed: Attempts of this run that failed, by method and kind of error.
        errors: The last error of each method that had one.
        given_up: Methods that failed too often in a row.
        stopped: Why the run ended early; ``None`` where everything was attempted.
        expected: Answers that each method should have in the end.
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
    """Let every method answer every query, and keep what came of it in the folder ``out``.

    A folder of the same manifest is continued: what was answered or learned is not done again, what
    failed is tried again. What a killed process was in the middle of, one preparation or answer for each
    thread, is begun again; calls of it that are in DSPy's cache are not paid again. Retries of single
    model calls are the model's own (DSPy's).

    Args:
        data: Users; iterated twice, so it must be possible to iterate it again.
        methods: By the labels used in the manifest.
        task: What the users are asked.
        manifest: What identifies the run (`eval.manifest.make_manifest`).
        out: The run folder; made where it does not exist.
        lm: The model; ``None`` where no method needs one.
        limits: Threads and budgets.
        tracker: Receives all usage, for progress; its own budget holds, too.
        on_plan: Called once with the number of answers still to be given.
        on_answer: Called after each attempt to answer, with the method's label, from any thread.

    Raises:
        ConfigError: A method does not fit the task, or ``out`` belongs to another run.
        DataError: The data are unreadable, or a history is not older than its queries.
    """
    for method in methods.values():
        method.check(task)
    queries, responses = survey(data, task)
    with RunFolder(out, manifest, queries) as folder:
        on_plan(len(queries) * len(methods) - sum(folder.answers()[label] for label in methods))
        limits = limits or Limits()
        spending = _Spending(limits.left(folder.spent), parent=tracker or current_tracker())
        run = _Run(folder, methods, limits, spending, lm, on_answer)
        run.serve_all(user_views(data, task, manifest.seed, responses))
        return run.outcome(len(queries))


class _Run:
    """One run in progress, shared by its threads."""

    def __init__(
        self,
        folder: RunFolder,
        methods: Mapping[str, Method],
        limits: Limits,
        tracker: _Spending,
        lm: Any,
        on_answer: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._methods = methods
        self._limits = limits
        self._tracker = tracker
        self._lm = lm
        self._on_answer = on_answer
        self._counting = threading.Lock()
        self._stopped: BaseException | None = None
        self._in_a_row: Counter[str] = Counter()
        self._failed: dict[str, Counter[str]] = {}
        self._errors: dict[str, Exception] = {}
        self._given_up: set[str] = set()

    def serve_all(self, users: Iterable[tuple[UserView, Sequence[Query]]]) -> None:
        """Serve every user with every method, in as many threads as allowed."""
        # A bounded queue: a data set is read no faster than it is worked on.
        places = threading.Semaphore(2 * self._limits.threads)
        broken: list[BaseException] = []

        def done(job: Future[None]) -> None:
            if (error := job.exception()) is not None:
                broken.append(error)
                self._stop(error)
            places.release()

        with ThreadPoolExecutor(self._limits.threads, "eval") as pool:
            try:
                for user, queries in users:
                    for label in self._methods:
                        places.acquire()
                        if self._stopped:
                            break
                        job = pool.submit(copy_context().run, self._serve, label, user, queries)
                        job.add_done_callback(done)
                    if self._stopped:
                        break
            except BaseException as error:
                # Leaving the pool waits for its jobs: they end before their next call.
                self._stop(error)
                raise
        if broken:
            raise broken[0]

    def outcome(self, expected: int) -> Outcome:
        """Return how it ended."""
        counts = self._folder.answers()
        return Outcome(
            answered={label: counts[label] for label in self._methods},
            failed={label: dict(kinds) for label, kinds in self._failed.items()},
            errors=self._errors,
            given_up=frozenset(self._given_up),
            stopped=self._stopped,
            expected=expected,
        )

    def _serve(self, label: str, user: UserView, queries: Sequence[Query]) -> None:
        user_id = user.user_id
        todo = [query for query in queries if not self._folder.answered(label, user_id, query.id)]
        if not todo or self._must_stop(label):
            return
        method = self._methods[label]
        with tracing(None) if method.trivial else nullcontext():
            self._serve_queries(label, method, user, todo)

    def _serve_queries(self, label: str, method: Method, user: UserView, queries: Sequence[Query]) -> None:
        opened = self._open(label, method, user)
        for query in queries:
            if self._must_stop(label):
                return
            if opened.failed is not None:
                self._keep(label, query, Attempt(failed=opened.failed))
                continue
            made = attempt(
                "answer",
                partial(_ask, method, opened.result, query),
                tracker=self._tracker,
                lm=self._lm,
                user_id=user.user_id,
                seed=user.seed,
                method=label,
                query_id=query.id,
            )
            self._note(label, made)
            self._keep(label, query, made)

    def _open(self, label: str, method: Method, user: UserView) -> Attempt[Any]:
        """Prepare the user unless that was done before, and open what was learned."""
        user_id = user.user_id
        learned = self._folder.learned(label, user_id)
        if learned is None:
            # Read back from JSON, so that a continued run opens exactly what an undisturbed one does.
            made = attempt(
                "prepare",
                lambda: json.loads(json.dumps(dict(method.prepare(user)))),
                tracker=self._tracker,
                lm=self._lm,
                user_id=user_id,
                seed=user.seed,
                method=label,
            )
            self._note(label, made)
            self._folder.append(
                PrepareRecord(
                    method=label,
                    user_id=user_id,
                    learned=made.result,
                    failed=made.failed,
                    usage=made.usage,
                    seconds=made.seconds,
                    prompts=made.prompts,
                )
            )
            if made.failed is not None:
                return made
            learned = made.result or {}
        with tracing(None):
            opened = attempt(
                "prepare",
                lambda: method.open(user, learned),
                tracker=self._tracker,
                lm=self._lm,
                user_id=user_id,
            )
        if opened.failed is not None:
            self._note(label, opened)
        return opened

    def _keep(self, label: str, query: Query, made: Attempt[Answer]) -> None:
        answer: dict[str, Any] = {} if made.result is None else vars(made.result)
        self._folder.append(
            AnswerRecord(
                method=label,
                user_id=query.user_id,
                query_id=query.id,
                failed=made.failed,
                usage=made.usage,
                seconds=made.seconds,
                prompts=made.prompts,
                **answer,
            )
        )
        self._on_answer(label)

    def _note(self, label: str, made: Attempt[Any]) -> None:
        """Count failures, and stop what cannot succeed."""
        with self._counting:
            if made.cause is None or made.failed is None:
                # Preparing users is no success while none of them gets an answer.
                if isinstance(made.result, Answer):
                    self._in_a_row[label] = 0
                return
            self._errors[label] = made.cause
            self._in_a_row[label] += 1
            self._failed.setdefault(label, Counter())[made.failed.kind] += 1
            if made.stops:
                self._stop(made.cause)
            elif self._in_a_row[label] >= self._limits.give_up_after:
                self._given_up.add(label)

    def _stop(self, why: BaseException) -> None:
        self._stopped = self._stopped or why
        self._tracker.stopped = True

    def _must_stop(self, label: str) -> bool:
        if self._stopped is None:
            self._check_budget()
        return self._stopped is not None or label in self._given_up

    def _check_budget(self) -> None:
        """Stop also for methods whose calls do not ask the tracker beforehand."""
        budget, used = self._tracker.budget, self._tracker.total()
        if budget.max_calls is not None and used.calls >= budget.max_calls:
            self._stop(BudgetExceededError(f"the limit of {self._limits.max_calls} calls is reached"))
        elif budget.max_usd is not None and used.usd >= budget.max_usd:
            self._stop(BudgetExceededError(f"the limit of ${self._limits.max_usd} is reached"))
        try:
            budget.check_prices(used.unpriced)
        except BudgetExceededError as error:
            self._stop(error)


class _Spending(UsageTracker):
    """The run's tracker: once the run has stopped it grants no further call, also in the middle of a job."""

    stopped = False

    def reserve(self) -> None:
        if self.stopped:
            raise BudgetExceededError("the run has stopped")
        super().reserve()


def _ask(method: Method, prepared: Any, query: Query) -> Answer:
    """Return a method's answer, once it is known that it can be kept."""
    answer = method.answer(prepared, replace(query, gold=None))
    if not isinstance(answer, Answer):
        raise TypeError(f"`{method.name}` must return an `Answer`, got {type(answer).__name__}")
    json.dumps([answer.text, answer.steps, answer.probabilities])
    return answer
