"""Compares methods query by query: difference, interval, corrected p-value, needed sample size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from eval import metrics
from eval.metrics import LOG_LIKELIHOOD, Floats, Measure, Metric, likelihood_rows
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
from program.text import counted

SETTINGS = Settings()
"""Used for every interval and test of a report."""

MAX_MISSING_GAP = 0.01
"""A comparison is refused if the two shares of missing answers differ by more than this."""


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """One method's answers under one measure; missing answers are left out, not scored as wrong.

    Attributes:
        rows: Terms of the measure, shape ``(answers, terms)``; ``None`` if there are no answers, or the
            method does not give what the measure needs for all of them.
        users: Pseudonym for each answer.
        keys: `AnswerRow.key` for each answer.
        lacks: What the answers lack, as the reason for refused comparisons.
    """

    method: MethodRun
    metric: Measure
    rows: Floats | None
    users: Sequence[str]
    keys: Sequence[tuple[str, str]]
    lacks: str = ""

    @property
    def interval(self) -> Interval | None:
        """The value with its interval; ``None`` without rows."""
        return None if self.rows is None else interval(self.rows, self.users, self.metric, SETTINGS)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A minus B under one measure, on the queries that both answered.

    Attributes:
        refused: Why the methods are not compared; all later fields are then ``None``.
        p_holm: The randomisation test's p-value, corrected for all comparisons of the measure.
        mcnemar: For accuracy only; ``mcnemar_holm`` is its corrected p-value.
        power: How many users a difference of this size needs.
    """

    a: str
    b: str
    metric: Measure
    refused: str = ""
    difference: Difference | None = None
    p_holm: float | None = None
    mcnemar: McNemar | None = None
    mcnemar_holm: float | None = None
    power: Power | None = None

    @property
    def verdict(self) -> str:
        """``NAME is better``, ``undecided`` or ``refused: REASON``."""
        if self.difference is None:
            return f"refused: {self.refused}"
        if self.difference.verdict == "undecided":
            return "undecided"
        return f"{self.a if self.difference.verdict == 'better' else self.b} is better"


def score_method(method: MethodRun, metric: Metric, task: Task) -> MethodScores:
    """Score a method's answers with a metric."""
    answers = [answer for answer in method.answers if answer.prediction is not None]
    golds = [answer.gold for answer in answers]
    rows = metric.rows([answer.prediction or "" for answer in answers], golds, task) if answers else None
    users, keys = [answer.user for answer in answers], [answer.key for answer in answers]
    return MethodScores(method=method, metric=metric, rows=rows, users=users, keys=keys)


def score_likelihood(method: MethodRun, task: Task) -> MethodScores:
    """Score the probabilities that a method gave to the true answers; it needs them for all its answers.

    With gaps, two methods would be compared on different queries, and a method could leave out the answers
    that it is unsure of.
    """
    answers = [answer for answer in method.answers if answer.prediction is not None]
    given = [answer.probabilities for answer in answers if answer.probabilities]
    lacks = ""
    if len(given) < len(answers):
        lacks = f"{method.name} gives probabilities for {len(given)} of {counted(len(answers), 'answer')}"
    complete = bool(answers) and not lacks
    return MethodScores(
        method=method,
        metric=LOG_LIKELIHOOD,
        rows=likelihood_rows(given, [answer.gold for answer in answers], task) if complete else None,
        users=[answer.user for answer in answers],
        keys=[answer.key for answer in answers],
        lacks=lacks,
    )


def answers_with_probabilities(method: MethodRun) -> int:
    """Return the number of a method's answers that have probabilities."""
    return sum(bool(a.probabilities) and a.prediction is not None for a in method.answers)


def invalid_share(method: MethodRun, task: Task) -> float | None:
    """Return the share of invalid answers, see `eval.metrics.invalid_share`; ``None`` without answers."""
    answers = [
        (answer.prediction, answer.valid) for answer in method.answers if answer.prediction is not None
    ]
    return metrics.invalid_share(answers, task)


def compare(a: MethodScores, b: MethodScores) -> Comparison:
    """Compare two methods under the same measure, without correction for other comparisons."""
    comparison = Comparison(a=a.method.name, b=b.method.name, metric=a.metric)
    refusal = _refusal(a.method, b.method) or "; ".join(filter(None, (a.lacks, b.lacks)))
    if refusal:
        return replace(comparison, refused=refusal)
    index_a = {key: index for index, key in enumerate(a.keys)}
    shared = [(index_a[key], index) for index, key in enumerate(b.keys) if key in index_a]
    if a.rows is None or b.rows is None or not shared:
        return replace(comparison, refused="no query was answered by both")
    rows_a, rows_b = a.rows[[i for i, _ in shared]], b.rows[[j for _, j in shared]]
    users = [a.users[i] for i, _ in shared]
    return replace(
        comparison,
        difference=difference(rows_a, rows_b, users, a.metric, SETTINGS),
        mcnemar=_mcnemar(rows_a, rows_b) if a.metric.name == "accuracy" else None,
        power=power(rows_a, rows_b, users, a.metric, confidence=SETTINGS.confidence),
    )


def compare_all(scores: Sequence[MethodScores]) -> list[Comparison]:
    """Compare each pair of methods once under one measure, with Holm's correction."""
    return correct([compare(a, b) for a, b in combinations(scores, 2)])


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Add Holm-corrected p-values over all ``comparisons``; refused ones do not count."""
    p = holm({str(i): c.difference.p for i, c in enumerate(comparisons) if c.difference})
    exact = holm({str(i): c.mcnemar.p for i, c in enumerate(comparisons) if c.mcnemar})
    return [
        replace(c, p_holm=p.get(str(i)), mcnemar_holm=exact.get(str(i))) for i, c in enumerate(comparisons)
    ]


def _mcnemar(rows_a: Floats, rows_b: Floats) -> McNemar:
    return mcnemar([bool(row[0]) for row in rows_a], [bool(row[0]) for row in rows_b])


def _refusal(a: MethodRun, b: MethodRun) -> str:
    """Return why two methods must not be compared; empty if they may be."""
    total_a, total_b = len(a.answers), len(b.answers)
    if abs(a.missing / total_a - b.missing / total_b) <= MAX_MISSING_GAP:
        return ""
    counts = f"{a.missing} and {b.missing} of {total_a}"
    if total_a != total_b:
        counts = f"{a.missing} of {total_a} and {b.missing} of {total_b}"
    return f"{counts} answers are missing, more than {percent(MAX_MISSING_GAP)} apart"
