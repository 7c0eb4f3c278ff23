"""How sure we are: everything here takes whole users as the unit that was sampled.

Queries of one user are alike, so resampling queries would claim more than was seen. Values are
formulas on sums of rows (`eval.metrics.Metric`), so a resample is one matrix product. All functions
are pure; equal arguments and seed give equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from eval.metrics import Floats, Metric
from program.errors import ConfigError

Verdict = Literal["better", "worse", "undecided"]

_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What changes a statistic: resamples, two-sided confidence in (0, 1), seed."""

    resamples: int = 5000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ConfigError(f"`resamples` must be at least 100, got {self.resamples!r}")
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"`confidence` must be between 0 and 1, got {self.confidence!r}")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its interval; ``low`` and ``high`` are ``None`` where ``reason`` says why.

    Attributes:
        value: In the metric's unit.
        n: Answers.
        users: Users.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    users: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A minus B on the same queries.

    Attributes:
        interval: Of the difference, in the metric's unit.
        p: Two-sided, from a randomisation test that swaps A and B for whole users. For `holm`.
        verdict: Whether A is better than B by the metric's direction: only where the interval
            excludes zero and there are users enough.
    """

    interval: Interval
    p: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Exact McNemar test. It takes queries as independent, so it is a lower bound with several per user.

    Attributes:
        only_a: Queries that only A answered right.
        only_b: Queries that only B answered right.
        p: Two-sided.
    """

    only_a: int
    only_b: int
    n: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Power:
    """How many users a difference of the observed size needs.

    Attributes:
        users: Users seen.
        needed: Users to find the observed difference with the wanted power; ``None`` where
            ``reason`` says why.
        detectable: Smallest difference that the users seen would find, in the metric's unit.
    """

    users: int
    needed: int | None
    detectable: float | None
    reason: str = ""


def interval(
    rows: Floats, users: Sequence[str], metric: Metric, settings: Settings | None = None
) -> Interval:
    """Return the metric's value and its bootstrap interval, resampling users.

    Expanded percentile interval (Hesterberg 2015, "What teachers should know about the bootstrap"):
    the percentiles are moved outwards so that few users do not give too narrow an interval.

    Args:
        rows: Each answer's terms, shape ``(answers, terms)``, from `Metric.rows`.
        users: Each answer's user id.
        metric: Gives the formula.
        settings: Resamples, confidence, seed.
    """
    settings = settings or Settings()
    sums = _user_sums(rows, users)
    value = float(metric.formula(sums.sum(axis=0)))
    return _interval(value, sums, metric.formula, len(users), settings)


def difference(
    rows_a: Floats, rows_b: Floats, users: Sequence[str], metric: Metric, settings: Settings | None = None
) -> Difference:
    """Compare two methods on the same queries in the same order; see `Difference`.

    Raises:
        ConfigError: The two do not have the same number of answers.
    """
    settings = settings or Settings()
    sums = _paired_sums(rows_a, rows_b, users)
    formula = _difference_of(metric)
    value = float(formula(sums.sum(axis=0)))
    found = _interval(value, sums, formula, len(users), settings)
    return Difference(
        interval=found,
        p=_randomisation_p(value, sums, formula, settings),
        verdict=_verdict(found, metric, settings),
    )


def mcnemar(correct_a: Sequence[bool], correct_b: Sequence[bool]) -> McNemar:
    """Test whether A and B are right equally often, on the same queries in the same order.

    Raises:
        ConfigError: Different lengths.
    """
    from scipy.stats import binomtest

    if len(correct_a) != len(correct_b):
        raise ConfigError(f"A and B need the same queries, got {len(correct_a)} and {len(correct_b)} answers")
    only_a = sum(bool(a) and not b for a, b in zip(correct_a, correct_b, strict=True))
    only_b = sum(bool(b) and not a for a, b in zip(correct_a, correct_b, strict=True))
    p = float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a=only_a, only_b=only_b, n=len(correct_a), p=p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm-adjusted p-values for one table of comparisons, in the order given."""
    ranked = sorted(p_values, key=lambda name: p_values[name])
    adjusted, floor = {}, 0.0
    for rank, name in enumerate(ranked):
        floor = max(floor, min(1.0, (len(ranked) - rank) * p_values[name]))
        adjusted[name] = floor
    return {name: adjusted[name] for name in p_values}


def power(
    rows_a: Floats,
    rows_b: Floats,
    users: Sequence[str],
    metric: Metric,
    *,
    wanted: float = 0.8,
    confidence: float = 0.95,
) -> Power:
    """Say how many users like these would show the observed difference.

    The variance is the jackknife's over users; the normal approximation gives the count.

    Args:
        rows_a: A's terms, as in `difference`.
        rows_b: B's terms for the same answers.
        users: Each answer's user id.
        metric: Gives the formula.
        wanted: The chance of finding the difference, in (0, 1).
        confidence: Of the two-sided interval that has to exclude zero.
    """
    from scipy.stats import norm

    sums = _paired_sums(rows_a, rows_b, users)
    seen = len(sums)
    if seen < 2:
        return Power(users=seen, needed=None, detectable=None, reason="one user shows no variance")
    formula = _difference_of(metric)
    total = sums.sum(axis=0)
    left_out = formula(total - sums)
    one_user = float((seen - 1) * np.square(left_out - left_out.mean()).sum())
    reach = float(norm.ppf((1 + confidence) / 2) + norm.ppf(wanted))
    detectable = reach * math.sqrt(one_user / seen)
    observed = abs(float(formula(total)))
    if observed < 1e-12:
        return Power(users=seen, needed=None, detectable=detectable, reason="no difference was seen")
    needed = max(math.ceil(one_user * (reach / observed) ** 2), least_users(confidence))
    return Power(users=seen, needed=needed, detectable=detectable)


def least_users(confidence: float = 0.95) -> int:
    """Return how many users it takes before even full agreement among them (sign test) means anything."""
    return math.ceil(1 - math.log2(1 - confidence))


def _user_sums(rows: Floats, users: Sequence[str]) -> Floats:
    """Sum rows by user, shape ``(users, terms)``, users in order of first appearance."""
    if len(rows) != len(users) or not users:
        raise ConfigError(f"every answer needs its user, got {len(rows)} answers and {len(users)} user ids")
    position = {user: number for number, user in enumerate(dict.fromkeys(users))}
    sums = np.zeros((len(position), rows.shape[1]))
    np.add.at(sums, [position[user] for user in users], rows)
    return sums


def _paired_sums(rows_a: Floats, rows_b: Floats, users: Sequence[str]) -> Floats:
    if rows_a.shape != rows_b.shape:
        raise ConfigError(f"A and B need the same queries, got {len(rows_a)} and {len(rows_b)} answers")
    return _user_sums(np.hstack([rows_a, rows_b]), users)


def _difference_of(metric: Metric) -> Callable[[Floats], Floats]:
    def formula(sums: Floats) -> Floats:
        a, b = np.split(sums, 2, axis=-1)
        return np.asarray(metric.formula(a) - metric.formula(b))

    return formula


def _interval(
    value: float, sums: Floats, formula: Callable[[Floats], Floats], n: int, settings: Settings
) -> Interval:
    from scipy.stats import norm, t

    users = len(sums)
    if users < 2:
        reason = "one user is no sample of users"
        return Interval(value=value, low=None, high=None, n=n, users=users, reason=reason)
    values = np.concatenate([formula(drawn @ sums) for drawn in _resamples(users, settings)])
    outer = t.ppf((1 + settings.confidence) / 2, users - 1) * math.sqrt(users / (users - 1))
    tail = float(norm.cdf(-outer))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high), n=n, users=users)


def _resamples(users: int, settings: Settings) -> Iterable[Floats]:
    """Return how often each user is drawn in each resample, shape ``(resamples, users)``, in chunks."""
    if settings.resamples * users > _CELLS_AT_ONCE:
        return _draw(users, settings)
    return _drawn_once(users, settings)


@lru_cache(maxsize=2)
def _drawn_once(users: int, settings: Settings) -> tuple[Floats, ...]:
    # A page has hundreds of intervals of the same users, and drawing is most of their cost.
    return tuple(_draw(users, settings))


def _draw(users: int, settings: Settings) -> Iterator[Floats]:
    rng = np.random.default_rng(settings.seed)
    for size in _chunks(settings.resamples, users):
        yield rng.multinomial(users, np.full(users, 1 / users), size=size).astype(np.float64)


def _randomisation_p(
    value: float, sums: Floats, formula: Callable[[Floats], Floats], settings: Settings
) -> float:
    rng = np.random.default_rng(settings.seed)
    swapped = np.hstack(np.split(sums, 2, axis=1)[::-1])
    extreme = 0
    for size in _chunks(settings.resamples, len(sums)):
        coins = rng.integers(0, 2, size=(size, len(sums))).astype(np.float64)
        values = formula(coins @ sums + (1 - coins) @ swapped)
        extreme += int((np.abs(values) >= abs(value) - 1e-12).sum())
    return (1 + extreme) / (1 + settings.resamples)


def _verdict(found: Interval, metric: Metric, settings: Settings) -> Verdict:
    if found.low is None or found.high is None or found.users < least_users(settings.confidence):
        return "undecided"
    if found.low <= 0.0 <= found.high:
        return "undecided"
    return "better" if metric.utility(found.value) > 0 else "worse"


def _chunks(total: int, width: int) -> Iterator[int]:
    size = max(1, _CELLS_AT_ONCE // width)
    for start in range(0, total, size):
        yield min(size, total - start)
