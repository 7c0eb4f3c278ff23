"""Confidence intervals and significance tests. The sampling unit is the user.

Queries of one user are correlated, so resampling queries would give too narrow intervals. Values
are formulas on sums of terms (`eval.metrics.Measure`), so a resample is one matrix product. All
functions are deterministic, given arguments and seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from eval.metrics import Floats, Measure
from program.errors import ConfigError
from program.text import counted

Verdict = Literal["better", "worse", "undecided"]

_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the bootstrap and the randomisation test.

    Attributes:
        resamples: At least 100.
        confidence: Of two-sided intervals, in (0, 1).
        seed: Seed of all resamples.

    Raises:
        ConfigError: A value is out of range.
    """

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
    """A value and its confidence interval, in the metric's unit.

    Attributes:
        low: Lower end; ``None`` if there is no interval.
        high: Upper end; ``None`` if there is no interval.
        n: Number of answers.
        users: Number of users.
        reason: Why there is no interval.
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
        p: Two-sided, from a randomisation test that swaps A and B for whole users; not corrected
            for several comparisons (see `holm`).
        verdict: Whether A is better than B in the metric's direction. "undecided" if the interval
            includes zero or there are fewer than `min_users` users.
    """

    interval: Interval
    p: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Exact McNemar test. It assumes independent queries, so ``p`` is too small for several per user.

    Attributes:
        only_a: Number of queries that only A answered correctly.
        only_b: Number of queries that only B answered correctly.
        n: Number of queries.
        p: Two-sided.
    """

    only_a: int
    only_b: int
    n: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Power:
    """The number of users needed to detect a difference of the observed size.

    Attributes:
        users: Number of users in the data.
        users_needed: Number of users for the target power; ``None`` if ``reason`` is not empty.
        detectable: Smallest difference that ``users`` can detect with the target power, in the
            metric's unit; ``None`` if there is only one user.
        reason: Why ``users_needed`` is unknown.
    """

    users: int
    users_needed: int | None
    detectable: float | None
    reason: str = ""


def interval(
    rows: Floats, users: Sequence[str], metric: Measure, settings: Settings | None = None
) -> Interval:
    """Return the metric's value and its bootstrap interval over users.

    The interval is the expanded percentile interval (Hesterberg 2015, "What teachers should know
    about the bootstrap"), which corrects the percentiles for small samples.

    Args:
        rows: Terms of each answer, shape ``(answers, terms)``, from `Metric.rows` or `likelihood_rows`.
        users: User id of each answer.
        metric: The metric of ``rows``.
        settings: ``None`` for the defaults.

    Raises:
        ConfigError: ``rows`` and ``users`` have different lengths, or are empty.

    Example:
        >>> from program import get_task
        >>> from eval.metrics import get_metric
        >>> mae, golds = get_metric("mae"), ["3", "3", "3"]
        >>> rows = mae.rows(["3", "4", "5"], golds, get_task("LaMP-3"))
        >>> interval(rows, users=["ana", "bo", "chi"], metric=mae).value
        1.0
    """
    settings = settings or Settings()
    sums = _user_sums(rows, users)
    value = float(metric.formula(sums.sum(axis=0)))
    return _interval(value, sums, metric.formula, len(users), settings)


def difference(
    rows_a: Floats, rows_b: Floats, users: Sequence[str], metric: Measure, settings: Settings | None = None
) -> Difference:
    """Compare two methods on the same queries in the same order. Arguments are those of `interval`.

    Raises:
        ConfigError: The methods have different numbers of answers.
    """
    settings = settings or Settings()
    sums = _paired_sums(rows_a, rows_b, users)
    formula = _difference_of(metric)
    value = float(formula(sums.sum(axis=0)))
    interval = _interval(value, sums, formula, len(users), settings)
    return Difference(
        interval=interval,
        p=_randomisation_p(value, sums, formula, settings),
        verdict=_verdict(interval, metric, settings),
    )


def mcnemar(correct_a: Sequence[bool], correct_b: Sequence[bool]) -> McNemar:
    """Test whether A and B are correct equally often, on the same queries in the same order.

    Raises:
        ConfigError: The lengths differ.

    Example:
        >>> mcnemar(correct_a=[True, True, True], correct_b=[False, True, False]).p
        0.5
    """
    from scipy.stats import binomtest

    if len(correct_a) != len(correct_b):
        raise ConfigError(f"A and B need the same queries, got {len(correct_a)} and {len(correct_b)} answers")
    only_a = sum(bool(a) and not b for a, b in zip(correct_a, correct_b, strict=True))
    only_b = sum(bool(b) and not a for a, b in zip(correct_a, correct_b, strict=True))
    p = float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a=only_a, only_b=only_b, n=len(correct_a), p=p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm-adjusted p-values for one table of comparisons, in the mapping's order.

    Example:
        >>> holm({"rag": 0.01, "icl": 0.04})
        {'rag': 0.02, 'icl': 0.04}
    """
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
    metric: Measure,
    *,
    target: float = 0.8,
    confidence: float = 0.95,
) -> Power:
    """Estimate the number of users needed to detect the observed difference.

    Uses the jackknife variance over users and the normal approximation.

    Args:
        rows_a: Terms of A's answers, as in `difference`.
        rows_b: Terms of B's answers to the same queries.
        users: User id of each answer.
        metric: The metric of the rows.
        target: The power, which is the probability of detecting the difference, in (0, 1).
        confidence: Of the two-sided interval that must exclude zero.
    """
    from scipy.stats import norm

    sums = _paired_sums(rows_a, rows_b, users)
    n_users = len(sums)
    if n_users < 2:
        reason = "the variance needs at least two users"
        return Power(users=n_users, users_needed=None, detectable=None, reason=reason)
    formula = _difference_of(metric)
    total = sums.sum(axis=0)
    jackknife = formula(total - sums)
    user_variance = float((n_users - 1) * np.square(jackknife - jackknife.mean()).sum())
    z = float(norm.ppf((1 + confidence) / 2) + norm.ppf(target))
    detectable = z * math.sqrt(user_variance / n_users)
    observed = abs(float(formula(total)))
    if observed < 1e-12:
        reason = "the observed difference is zero"
        return Power(users=n_users, users_needed=None, detectable=detectable, reason=reason)
    users_needed = max(math.ceil(user_variance * (z / observed) ** 2), min_users(confidence))
    return Power(users=n_users, users_needed=users_needed, detectable=detectable)


def min_users(confidence: float = 0.95) -> int:
    """Return the number of users for which a sign test can be significant if all users agree."""
    return math.ceil(1 - math.log2(1 - confidence))


def _user_sums(rows: Floats, users: Sequence[str]) -> Floats:
    """Sum rows by user, shape ``(users, terms)``, users in order of first appearance."""
    if len(rows) != len(users) or not users:
        raise ConfigError(
            "each answer needs a user id, got "
            f"{counted(len(rows), 'answer')} and {counted(len(users), 'user id')}"
        )
    position = {user: number for number, user in enumerate(dict.fromkeys(users))}
    sums = np.zeros((len(position), rows.shape[1]))
    np.add.at(sums, [position[user] for user in users], rows)
    return sums


def _paired_sums(rows_a: Floats, rows_b: Floats, users: Sequence[str]) -> Floats:
    if rows_a.shape != rows_b.shape:
        raise ConfigError(f"A and B need the same queries, got {len(rows_a)} and {len(rows_b)} answers")
    return _user_sums(np.hstack([rows_a, rows_b]), users)


def _difference_of(metric: Measure) -> Callable[[Floats], Floats]:
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
        reason = "an interval needs at least two users"
        return Interval(value=value, low=None, high=None, n=n, users=users, reason=reason)
    values = np.concatenate([formula(counts @ sums) for counts in _resamples(users, settings)])
    t_quantile = t.ppf((1 + settings.confidence) / 2, users - 1) * math.sqrt(users / (users - 1))
    tail = float(norm.cdf(-t_quantile))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high), n=n, users=users)


def _resamples(users: int, settings: Settings) -> Iterable[Floats]:
    """Return in chunks how often each resample draws each user, shape ``(resamples, users)``."""
    if settings.resamples * users > _CELLS_AT_ONCE:
        return _draw(users, settings)
    return _cached_draws(users, settings)


@lru_cache(maxsize=2)
def _cached_draws(users: int, settings: Settings) -> tuple[Floats, ...]:
    # A report has hundreds of intervals over the same users, and drawing is most of their cost.
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


def _verdict(interval: Interval, metric: Measure, settings: Settings) -> Verdict:
    if interval.low is None or interval.high is None or interval.users < min_users(settings.confidence):
        return "undecided"
    if interval.low <= 0.0 <= interval.high:
        return "undecided"
    return "better" if metric.utility(interval.value) > 0 else "worse"


def _chunks(total: int, width: int) -> Iterator[int]:
    size = max(1, _CELLS_AT_ONCE // width)
    for start in range(0, total, size):
        yield min(size, total - start)
