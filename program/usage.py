"""Counts the calls, tokens and dollars of a run by stage, and enforces a budget.

Each run counts on its own copy of the language model, when DSPy reports a finished call. Counts are
therefore exact in threads and asyncio, and DSPy's global history, which mixes users, stays empty.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.dsp.utils.settings import main_thread_config

from program.calls import make_call
from program.errors import BudgetExceededError, ConfigError, ModelSetupError
from program.spans import report_call
from program.text import counted


@dataclass
class Usage:
    """Totals over model calls.

    Attributes:
        calls: Finished calls, cache hits included.
        input_tokens: Prompt tokens.
        cached_tokens: Prompt tokens that the provider read from its own cache.
        output_tokens: Completion tokens.
        usd: Price in US dollars; a lower bound if ``unpriced`` is above 0.
        unpriced: Calls without a known price.
        cache_hits: Calls answered from DSPy's cache; they cost nothing.

    Example:
        >>> usage = Usage(calls=1, input_tokens=1200, output_tokens=30, usd=0.0004)
        >>> usage.add(Usage(calls=1, input_tokens=800, unpriced=1))
        >>> print(usage)
        2 calls, 2,030 tokens, at least $0.0004
    """

    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    cache_hits: int = 0

    def __str__(self) -> str:
        cost = f"${self.usd:.4f}"
        if self.unpriced:
            cost = f"at least {cost}" if self.usd else "price unknown"
        return f"{counted(self.calls, 'call')}, {counted(self.tokens, 'token')}, {cost}"

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def less(self, other: Usage) -> Usage:
        """Return these totals without those of ``other``."""
        return Usage(**{name: value - getattr(other, name) for name, value in vars(self).items()})

    def add(self, other: Usage) -> None:
        """Add the totals of ``other`` to this object."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a model costs, for one that DSPy knows no price of: set it as the ``prices`` of the model.

    Attributes:
        usd_in: Dollars for a million input tokens, 0 or more.
        usd_out: Dollars for a million output tokens, 0 or more.

    Raises:
        ConfigError: A price is negative or not a number.

    Example:
        >>> Prices(usd_in=0.5, usd_out=2.0).usd(input_tokens=1_000_000, output_tokens=100_000)
        0.7
    """

    usd_in: float
    usd_out: float

    def __post_init__(self) -> None:
        for name, price in vars(self).items():
            if not 0 <= price < math.inf:
                raise ConfigError(f"`{name}` must be 0 or more, got {price!r}")

    def usd(self, *, input_tokens: int, output_tokens: int) -> float:
        """Return the price of a call in dollars."""
        return (input_tokens * self.usd_in + output_tokens * self.usd_out) / 1_000_000

    def applied(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a DSPy history entry with its price by these; unchanged without token counts."""
        usage = entry.get("usage") or {}
        inputs, outputs = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        if inputs is None or outputs is None:
            return entry
        return {**entry, "cost": self.usd(input_tokens=inputs, output_tokens=outputs)}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits for one run; ``None`` means no limit.

    The limits are checked before each call. A run never makes call ``max_calls + 1``, and exceeds
    ``max_usd`` by at most one call. With ``max_usd`` the run stops after a call without a known price.

    Example:
        >>> tracker = UsageTracker(Budget(max_calls=1))
        >>> tracker.reserve()
        >>> tracker.reserve()
        Traceback (most recent call last):
        program.errors.BudgetExceededError: stopped before call 2: the limit is 1 call
    """

    max_calls: int | None = None
    max_usd: float | None = None

    def check_prices(self, unpriced: int) -> None:
        """Raise `BudgetExceededError` if ``max_usd`` is set and any of the calls has no known price."""
        if self.max_usd is not None and unpriced:
            raise BudgetExceededError(
                f"cannot enforce `max_usd`: no known price for {counted(unpriced, 'call')}; use `max_calls`"
            )


class UsageTracker:
    """Counts the calls of one run by stage. Thread-safe.

    Args:
        budget: Limits of the run; ``None`` for no limit.
        parent: The tracker of an enclosing run. It also counts every call, and its budget also applies.
        resumes: Whether this is the tracker of a run that may be resumed: calls that were paid before it was
            resumed count in it, but not in ``parent``.

    Example:
        >>> import dspy
        >>> from program import scripted_lm
        >>> lm = scripted_lm(lambda system, user: "Lentils.")
        >>> with track_usage(UsageTracker(), lm) as tracker, stage("dinner"):
        ...     dspy.settings.lm("What shall I cook?")
        ['Lentils.']
        >>> {name: usage.calls for name, usage in tracker.by_stage().items()}
        {'dinner': 1}
    """

    def __init__(
        self, budget: Budget | None = None, *, parent: UsageTracker | None = None, resumes: bool = False
    ) -> None:
        self.budget = budget or Budget()
        self.parent = parent
        self.resumes = resumes
        self._stages: dict[str, Usage] = {}
        self._granted = 0
        self._lock = threading.Lock()
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the tracker was created."""
        return time.perf_counter() - self._started

    def total(self) -> Usage:
        """Return the totals over all stages."""
        total = Usage()
        with self._lock:
            for usage in self._stages.values():
                total.add(usage)
        return total

    def by_stage(self) -> dict[str, Usage]:
        """Return a copy of the totals of each stage, in order of first use."""
        with self._lock:
            return {stage: Usage(**vars(usage)) for stage, usage in self._stages.items()}

    def reserve(self) -> None:
        """Reserve one call; call this before making it.

        Raises:
            BudgetExceededError: The call would exceed a limit; it is not counted here.
        """
        if self.parent is not None:
            self.parent.reserve()
        with self._lock:
            self._check()
            self._granted += 1

    def check(self) -> None:
        """Raise `BudgetExceededError` if the next call would exceed a limit here or in an enclosing run."""
        if self.parent is not None:
            self.parent.check()
        with self._lock:
            self._check()

    def _check(self) -> None:
        usd = sum(usage.usd for usage in self._stages.values())
        if self.budget.max_calls is not None and self._granted >= self.budget.max_calls:
            limit = counted(self.budget.max_calls, "call")
            raise BudgetExceededError(f"stopped before call {self._granted + 1}: the limit is {limit}")
        self.budget.check_prices(sum(usage.unpriced for usage in self._stages.values()))
        if self.budget.max_usd is not None and usd >= self.budget.max_usd:
            raise BudgetExceededError(f"stopped at ${usd:.4f}: the limit is ${self.budget.max_usd}")

    def record(self, entry: Mapping[str, Any]) -> None:
        """Count one finished call from its DSPy history entry."""
        call = _usage_of(entry)
        with self._lock:
            self._stages.setdefault(_stage.get(), Usage()).add(call)
        if self.parent is None:
            meter = _meter.get()
            if meter is not None:
                meter.setdefault(_stage.get(), Usage()).add(call)
            report_call(entry)
        else:
            self.parent.record(entry)

    def replay(self, by_stage: Mapping[str, Usage]) -> None:
        """Count calls that were paid before a run was resumed, as they were counted then.

        They count against the budget, since the run has made them, but not in the enclosing run, which has
        not. Nothing is reported to the trace.

        Example:
            >>> outer = UsageTracker()
            >>> inner = UsageTracker(Budget(max_calls=3), parent=outer, resumes=True)
            >>> inner.replay({"update": Usage(calls=3)})
            >>> inner.total().calls, outer.total().calls
            (3, 0)
            >>> inner.reserve()
            Traceback (most recent call last):
            program.errors.BudgetExceededError: stopped before call 4: the limit is 3 calls
        """
        with self._lock:
            _add(self._stages, by_stage)
            self._granted += sum(usage.calls for usage in by_stage.values())
        if self.parent is not None and not self.resumes:
            self.parent.replay(by_stage)


def _usage_of(entry: Mapping[str, Any]) -> Usage:
    """Return the usage of one call; without usable token counts its price is unknown, not zero."""
    usage = entry.get("usage") or {}
    # A prompt has at least one token: zero means that the provider sent no count.
    inputs, outputs = _count(usage.get("prompt_tokens")) or None, _count(usage.get("completion_tokens"))
    hit = _is_cache_hit(entry)
    cost = entry.get("cost")
    priced = isinstance(cost, int | float) and cost >= 0 and inputs is not None and outputs is not None
    return Usage(
        calls=1,
        input_tokens=inputs or 0,
        cached_tokens=_count((usage.get("prompt_tokens_details") or {}).get("cached_tokens")) or 0,
        output_tokens=outputs or 0,
        usd=float(cost or 0.0) if priced and not hit else 0.0,
        unpriced=int(not priced and not hit),
        cache_hits=int(hit),
    )


def _count(value: Any) -> int | None:
    """Return a token count; ``None`` if a provider sent something else."""
    return int(value) if isinstance(value, int | float) and value >= 0 else None


def _is_cache_hit(entry: Mapping[str, Any]) -> bool:
    """Return whether a reply came from a cache: its usage is removed, and the reply still has it."""
    response, exchange = entry.get("response"), _exchange.get()
    if entry.get("cache_hit") or getattr(response, "cache_hit", False):
        return True
    if exchange is not None and exchange.cache_hit:
        return True
    original = getattr(response, "usage", None)
    return not entry.get("usage") and bool(getattr(original, "total_tokens", None))


class Exchange:
    """One request and its reply, while it is in progress.

    Attributes:
        entries: DSPy's history entries of the finished calls, in order.
        cache_hit: Whether the reply came from a cache.
        to_cache: Stores the reply in the cache; called if the reply is usable.
    """

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self.cache_hit = False
        self.to_cache: list[Callable[[], None]] = []


_exchange: ContextVar[Exchange | None] = ContextVar("personaagent_exchange", default=None)


def current_exchange() -> Exchange | None:
    """Return the exchange in progress, or ``None``."""
    return _exchange.get()


@contextmanager
def observe_exchange() -> Iterator[Exchange]:
    """Collect what DSPy reports of the calls inside the block."""
    exchange = Exchange()
    token = _exchange.set(exchange)
    try:
        yield exchange
    finally:
        _exchange.reset(token)


_meter: ContextVar[dict[str, Usage] | None] = ContextVar("personaagent_meter", default=None)


@contextmanager
def metered() -> Iterator[dict[str, Usage]]:
    """Collect by stage what the tracked calls inside the block cost, beside what their trackers count.

    Example:
        >>> import dspy
        >>> from program import scripted_lm
        >>> lm = scripted_lm(lambda system, user: "Lentils.")
        >>> with track_usage(UsageTracker(), lm), metered() as usage, stage("dinner"):
        ...     dspy.settings.lm("What shall I cook?")
        ['Lentils.']
        >>> usage["dinner"].calls
        1
    """
    usage: dict[str, Usage] = {}
    outer, token = _meter.get(), _meter.set(usage)
    try:
        yield usage
    finally:
        _meter.reset(token)
        if outer is not None:
            _add(outer, usage)


def _add(totals: dict[str, Usage], by_stage: Mapping[str, Usage]) -> None:
    for name, usage in by_stage.items():
        totals.setdefault(name, Usage()).add(usage)


def replay_usage(by_stage: Mapping[str, Usage]) -> None:
    """Count calls that were paid before, in the current tracker and what is being metered."""
    tracker, meter = _tracker.get(), _meter.get()
    if tracker is not None:
        tracker.replay(by_stage)
    if meter is not None:
        _add(meter, by_stage)


_tracker: ContextVar[UsageTracker | None] = ContextVar("personaagent_tracker", default=None)
_stage: ContextVar[str] = ContextVar("personaagent_stage", default="answer")


def current_tracker() -> UsageTracker | None:
    """Return the tracker of the current run, or ``None``."""
    return _tracker.get()


def reserve_call() -> None:
    """Reserve one call with the current tracker; do nothing without one.

    Raises:
        BudgetExceededError: The call would exceed a limit and must not be made.
    """
    tracker = _tracker.get()
    if tracker is not None:
        tracker.reserve()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the calls inside the block under the stage ``name``."""
    token = _stage.set(name)
    try:
        yield
    finally:
        _stage.reset(token)


def configured_lm() -> Any:
    """Return DSPy's configured model.

    Raises:
        ModelSetupError: There is none.
    """
    if dspy.settings.lm is None:
        raise ModelSetupError(
            "no language model is configured; call `dspy.configure(lm=resolve_lm(NAME))` first, "
            "without a name for the embedded model"
        )
    return dspy.settings.lm


def track_lm(lm: Any, tracker: UsageTracker) -> Any:
    """Return a copy of ``lm`` that reports finished calls to ``tracker`` instead of DSPy's history.

    The copy does not retry: `program.models.patience` does, with a limit on what it waits for. A model with
    other prices than its provider's list has a method ``price_of(entry)``, in US dollars.
    """
    copied = lm.copy()
    price_of = getattr(lm, "price_of", None)

    prices: Prices | None = getattr(lm, "prices", None)

    def record(entry: Mapping[str, Any]) -> None:
        if prices is not None:
            entry = prices.applied(entry)
        if price_of is not None:
            entry = {**entry, "cost": price_of(entry)}
        exchange = _exchange.get()
        if exchange is not None:
            exchange.entries.append(entry)
        tracker.record(entry)

    ask = type(copied).acall

    async def acall(prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        def call() -> Any:
            return ask(copied, prompt, messages=messages, **kwargs)

        return await make_call(call, copied.model, prompt, messages, copied.kwargs, kwargs)

    copied.update_history = record
    copied.acall = acall
    copied.retries = getattr(lm, "retries", getattr(lm, "num_retries", 0))
    copied.num_retries = 0
    return copied


@contextmanager
def track_usage(tracker: UsageTracker, lm: Any = None) -> Iterator[UsageTracker]:
    """Count every call inside the block in ``tracker``.

    Args:
        tracker: Counts the calls; its budget applies to them.
        lm: The model to use inside the block; ``None`` for DSPy's configured model.

    Example:
        >>> import dspy
        >>> from program import scripted_lm
        >>> lm = scripted_lm(lambda system, user: "Lentils.")
        >>> with track_usage(UsageTracker(), lm) as tracker:
        ...     dspy.settings.lm("What shall I cook?")
        ['Lentils.']
        >>> tracker.total().calls
        1
    """
    with _tracking(tracker, lm, trace=None):
        yield tracker


@contextmanager
def track_if_untracked() -> Iterator[None]:
    """Keep calls outside `track_usage` out of DSPy's history, where one user's prompts lie beside another's.

    The trace of an optimizer goes on; DSPy's global trace, which nothing reads, is off.
    """
    if _tracker.get() is not None:
        yield
        return
    is_global = dspy.settings.trace is main_thread_config["trace"]
    settings = {"trace": None} if is_global else {}
    with _tracking(UsageTracker(), None, **settings):
        yield


@contextmanager
def _tracking(tracker: UsageTracker, lm: Any, **settings: Any) -> Iterator[None]:
    copied = track_lm(configured_lm() if lm is None else lm, tracker)
    token = _tracker.set(tracker)
    try:
        # DSPy reports finished calls through `update_history`, and only if history is enabled.
        with dspy.context(lm=copied, disable_history=False, **settings):
            yield
    finally:
        _tracker.reset(token)
