"""What a run costs: calls, tokens, money, seconds, by stage; and the budget that stops it.

Counting happens where DSPy hands over a finished call, on a copy of the language model that
belongs to the run, so it is exact in threads and asyncio, and DSPy's global history, which mixes
all users, is never written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

import dspy

from program.errors import BudgetExceededError
from program.spans import report_call


@dataclass
class Usage:
    """Sums over calls. ``usd`` is a lower bound where ``unpriced`` calls are above zero."""

    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    cache_hits: int = 0

    def __str__(self) -> str:
        more = " or more" if self.unpriced else ""
        return f"{self.calls} calls, {self.tokens:,} tokens, ${self.usd:.4f}{more}"

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def add(self, other: Usage) -> None:
        """Add another sum to this one."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits for one run; ``None`` means no limit.

    A call is refused when the limit is already reached, so a run never makes call number
    ``max_calls + 1``, and passes ``max_usd`` by at most one call. With ``max_usd`` a call whose price
    nobody knows is the last one.
    """

    max_calls: int | None = None
    max_usd: float | None = None

    def check_prices(self, unpriced: int) -> None:
        """Raise `BudgetExceededError` where ``unpriced`` calls make a limit in dollars impossible to keep."""
        if self.max_usd is not None and unpriced:
            raise BudgetExceededError(
                f"nobody told the price of {unpriced} calls, so the limit in dollars cannot be kept; "
                "limit the number of calls instead"
            )


class UsageTracker:
    """Counts the calls of one run by stage. Safe to share between threads.

    A run inside another run counts in both: its calls are passed on to ``parent``, whose budget
    holds for it too.
    """

    def __init__(self, budget: Budget | None = None, *, parent: UsageTracker | None = None) -> None:
        self.budget = budget or Budget()
        self.parent = parent
        self._stages: dict[str, Usage] = {}
        self._granted = 0
        self._lock = threading.Lock()
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the tracker was opened."""
        return time.perf_counter() - self._started

    def total(self) -> Usage:
        """Return the sum over all stages."""
        total = Usage()
        with self._lock:
            for usage in self._stages.values():
                total.add(usage)
        return total

    def by_stage(self) -> dict[str, Usage]:
        """Return a copy of the sums, by stage in order of first use."""
        with self._lock:
            return {stage: Usage(**asdict(usage)) for stage, usage in self._stages.items()}

    def reserve(self) -> None:
        """Ask for one more call before making it.

        Raises:
            BudgetExceededError: It would pass a limit; nothing was counted.
        """
        if self.parent is not None:
            self.parent.reserve()
        with self._lock:
            usd = sum(usage.usd for usage in self._stages.values())
            if self.budget.max_calls is not None and self._granted >= self.budget.max_calls:
                raise BudgetExceededError(
                    f"stopped before call {self._granted + 1}: the limit is {self.budget.max_calls} calls"
                )
            self.budget.check_prices(sum(usage.unpriced for usage in self._stages.values()))
            if self.budget.max_usd is not None and usd >= self.budget.max_usd:
                raise BudgetExceededError(f"stopped at ${usd:.4f}: the limit is ${self.budget.max_usd}")
            self._granted += 1

    def record(self, entry: Mapping[str, Any]) -> None:
        """Count one finished call, given DSPy's history entry of it."""
        usage = entry.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        cost = entry.get("cost")
        hit = bool(entry.get("cache_hit")) or not usage
        call = Usage(
            calls=1,
            input_tokens=int(usage.get("prompt_tokens") or 0),
            cached_tokens=int(details.get("cached_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
            usd=0.0 if hit else float(cost or 0.0),
            unpriced=int(cost is None and not hit),
            cache_hits=int(hit),
        )
        with self._lock:
            self._stages.setdefault(_stage.get(), Usage()).add(call)
        if self.parent is None:
            report_call(entry)
        else:
            self.parent.record(entry)


_tracker: ContextVar[UsageTracker | None] = ContextVar("personaagent_ledger", default=None)
_stage: ContextVar[str] = ContextVar("personaagent_stage", default="answer")


def current_tracker() -> UsageTracker | None:
    """Return the tracker of the run in progress, if there is one."""
    return _tracker.get()


def reserve_call() -> None:
    """Ask the current tracker for one more call; without a tracker there is no limit.

    Raises:
        BudgetExceededError: The call would pass the limit and must not be made.
    """
    tracker = _tracker.get()
    if tracker is not None:
        tracker.reserve()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the calls made inside under ``name``."""
    token = _stage.set(name)
    try:
        yield
    finally:
        _stage.reset(token)


def track_lm(lm: Any, tracker: UsageTracker) -> Any:
    """Return a copy of ``lm`` whose finished calls are counted in ``tracker`` and nowhere else.

    DSPy's per-call history (which mixes users) is not written for the copy.
    """
    copied = lm.copy()
    copied.update_history = tracker.record
    return copied


@contextmanager
def track_usage(tracker: UsageTracker, lm: Any = None) -> Iterator[UsageTracker]:
    """Count every call made inside, with ``lm`` or DSPy's configured model, in ``tracker``."""
    token = _tracker.set(tracker)
    try:
        # `update_history` is how DSPy hands over a finished call; it asks this setting first.
        with dspy.context(lm=track_lm(lm or dspy.settings.lm, tracker), disable_history=False, trace=None):
            yield tracker
    finally:
        _tracker.reset(token)
