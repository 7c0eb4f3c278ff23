"""Which method is better, where that may be said at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from eval import metrics
from eval.metrics import Floats, Metric
from eval.report.data import MethodRun
from eval.report.table import percent
from eval.statistics import (
    Difference,
    Interval,
    McNemar,
    Power,
    Settings,
    difference,
    holm,
    interval,
    mcnemar,
    power,
)
from program.task import Task

_LEVEL = 0.05

MOST_MISSING_APART = 0.01
"""A comparison is refused where the two shares of missing answers are further apart than this."""


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """One method's answers under one metric; missing answers are left out, never scored.

    Attributes:
        rows: Terms of the metric, shape ``(answered, terms)``; ``None`` where nothing was answered.
        users: Pseudonym of each answer.
        keys: Query of each answer.
    """

    method: MethodRun
    metric: Metric
    rows: Floats | None
    users: Sequence[str]
    keys: Sequence[tuple[str, str]]

    @property
    def interval(self) -> Interval | None:
        """The metric's value with its interval; ``None`` where nothing was answered."""
        return None if self.rows is None else interval(self.rows, self.users, self.metric, SETTINGS)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A minus B under one metric, on the queries that both answered.

    Attributes:
        refused: Why the two may not be compared; every other value is then ``None``.
        p_holm: The randomisation test's p, corrected for all comparisons of the metric.
        mcnemar: For accuracy only; ``mcnemar_holm`` is its corrected p.
        power: How many users such a difference needs.
    """

    a: str
    b: str
    metric: Metric
    refused: str = ""
    difference: Difference | None = None
    p_holm: float | None = None
    mcnemar: McNemar | None = None
    mcnemar_holm: float | None = None
    power: Power | None = None

    @property
    def verdict(self) -> str:
        """What may be said, in words that name the better method."""
        if self.difference is None:
            return f"refused: {self.refused}"
        if self.difference.verdict == "undecided":
            return "undecided"
        return f"{self.a if self.difference.verdict == 'better' else self.b} is better"


SETTINGS = Settings()
"""Of every interval and test in a report; the page names them."""


def score_method(method: MethodRun, metric: Metric, task: Task) -> MethodScores:
    """Return a method's answers under a metric."""
    answered = [answer for answer in method.answers if answer.prediction is not None]
    golds = [answer.gold for answer in answered]
    rows = metric.rows([a.prediction or "" for a in answered], golds, task) if answered else None
    users, keys = [answer.user for answer in answered], [answer.key for answer in answered]
    return MethodScores(method=method, metric=metric, rows=rows, users=users, keys=keys)


def invalid_share(method: MethodRun, task: Task) -> float | None:
    """Return a method's `eval.metrics.invalid_share`."""
    read = [(answer.prediction, answer.valid) for answer in method.answers if answer.prediction is not None]
    return metrics.invalid_share(read, task)


def compare(a: MethodScores, b: MethodScores) -> Comparison:
    """Compare two methods under the same metric, without correction for other comparisons."""
    plain = Comparison(a=a.method.name, b=b.method.name, metric=a.metric)
    refusal = _refusal(a.method, b.method)
    if refusal:
        return replace(plain, refused=refusal)
    place_a = {key: place for place, key in enumerate(a.keys)}
    shared = [(place_a[key], place) for place, key in enumerate(b.keys) if key in place_a]
    if a.rows is None or b.rows is None or not shared:
        return replace(plain, refused="no query was answered by both")
    rows_a, rows_b = a.rows[[i for i, _ in shared]], b.rows[[j for _, j in shared]]
    users = [a.users[i] for i, _ in shared]
    return replace(
        plain,
        difference=difference(rows_a, rows_b, users, a.metric, SETTINGS),
        mcnemar=_mcnemar(rows_a, rows_b) if a.metric.name == "accuracy" else None,
        power=power(rows_a, rows_b, users, a.metric, confidence=SETTINGS.confidence),
    )


def compare_all(all_scores: Sequence[MethodScores]) -> list[Comparison]:
    """Compare every pair of methods under one metric, each pair once, with Holm's correction."""
    return corrected([compare(a, b) for a, b in combinations(all_scores, 2)])


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons of one table with their Holm-corrected p-values."""
    p = holm({str(i): c.difference.p for i, c in enumerate(comparisons) if c.difference})
    exact = holm({str(i): c.mcnemar.p for i, c in enumerate(comparisons) if c.mcnemar})
    return [
        replace(c, p_holm=p.get(str(i)), mcnemar_holm=exact.get(str(i))) for i, c in enumerate(comparisons)
    ]


def _mcnemar(rows_a: Floats, rows_b: Floats) -> McNemar:
    return mcnemar([bool(row[0]) for row in rows_a], [bool(row[0]) for row in rows_b])


def _refusal(a: MethodRun, b: MethodRun) -> str:
    of_a, of_b = len(a.answers), len(b.answers)
    if abs(a.missing / of_a - b.missing / of_b) <= MOST_MISSING_APART:
        return ""
    counts = f"{a.missing} and {b.missing} of {of_a}"
    if of_a != of_b:
        counts = f"{a.missing} of {of_a} and {b.missing} of {of_b}"
    return f"{counts} answers are missing, more than {percent(MOST_MISSING_APART)} apart"


def findings(comparisons: Sequence[Comparison], metric: Metric) -> list[str]:
    """Return what may be said of the reference, A in every comparison, in one sentence a verdict."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "undecided": [], "refused": []}
    for comparison in comparisons:
        found = comparison.difference
        groups[found.verdict if found else "refused"].append(comparison.b)
    if not comparisons:
        return []
    name = comparisons[0].a
    said = {
        "better": f"{metric.title}: {name} is better than {{}}.",
        "worse": f"{metric.title}: {name} is worse than {{}}.",
        "undecided": f"{metric.title}: {name} against {{}} is undecided: the interval holds zero, or there "
        "are too few users.",
        "refused": f"{metric.title}: {name} is not compared with {{}}: the table of differences says why.",
    }
    weak = [c.b for c in comparisons if c.p_holm and c.p_holm >= _LEVEL and c.verdict.endswith("better")]
    lines = [said[verdict].format(_list(names)) for verdict, names in groups.items() if names]
    if weak:
        lines.append(
            f"With Holm's correction over all pairs of the run, the difference from {_list(weak)} could "
            f"still be chance (p of {_LEVEL} or more)."
        )
    return lines


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
