"""LaMP's corpus metrics (`eval/evaluation.py` of LaMP-Benchmark/LaMP), chrF and log-likelihood.

A metric is a formula on sums over answers, so one definition gives both the corpus value and the
values of a bootstrap over users. Intended differences from LaMP's scorer:

- ROUGE is the mean of per-answer F; LaMP takes the median of a random bootstrap of it.
- A rating that crashes LaMP's scorer (``nan``, ``inf``, beyond 32 bits) counts as unparsable.
- An empty list of answers is an error, not 0.0.

ROUGE reads the letters a to z and digits only, so texts in other scripts score 0. Tasks outside LaMP
use ``chrf``, which is also what alignment optimizes (`Text.agreement`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eval.tasks.base import LampTask
from program.answers import AnswerType, Text, chrf, fits
from program.errors import ConfigError, DataError, UnparsableAnswerError
from program.task import Task

LEAST_PROBABILITY = 1e-9
"""Lowest probability that `likelihood_rows` counts: one answer cannot weigh more than -20.7 nats."""

Unit = Literal["share", "stars", "nats"]

_LARGEST = float(np.finfo(np.float32).max)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """One number for a list of answers, as a formula on sums over them.

    Attributes:
        title: The name in tables.
        unit: "share" is in [0, 1]; "stars" are rating units; "nats" are natural logarithms.
        formula: Maps sums of terms, shape ``(..., terms)``, to values, shape ``(...)``.
    """

    name: str
    title: str
    unit: Unit
    better: Literal["higher", "lower"]
    formula: Callable[[Floats], Floats]

    def utility(self, value: float) -> float:
        """Return ``value``, negated if lower is better, so that larger is always better."""
        return value if self.better == "higher" else -value


@dataclass(frozen=True)
class Metric(Measure):
    """A measure of the answers' texts alone.

    Attributes:
        terms: Maps prediction, gold and task to one answer's terms of the sums. The number of terms
            is the same for every answer of a task.
    """

    terms: Callable[[str, str, LampTask], Sequence[float]]

    def rows(self, predictions: Sequence[str], golds: Sequence[str], task: Task) -> Floats:
        """Return the terms of each answer, shape ``(answers, terms)``.

        Raises:
            ConfigError: The lengths differ, or there are no answers.
            DataError: The metric cannot read a gold.
        """
        if len(predictions) != len(golds) or not golds:
            raise ConfigError(
                f"`{self.name}` needs as many golds as predictions and at least one, "
                f"got {len(golds)} and {len(predictions)}"
            )
        lamp = LampTask.of(task)
        return np.array(
            [self.terms(p, g, lamp) for p, g in zip(predictions, golds, strict=True)], dtype=float
        )

    def score(self, predictions: Sequence[str], golds: Sequence[str], task: Task) -> float:
        """Return the corpus value. Raises the errors of `rows`."""
        return float(self.formula(self.rows(predictions, golds, task).sum(axis=0)))


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's value over ``n`` answers."""

    name: str
    value: float
    unit: Unit
    better: Literal["higher", "lower"]
    n: int


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return the task's metrics, main metric first, then the invalid rate.

    Raises:
        ConfigError: The task names an unknown metric.
    """
    return tuple(get_metric(name) for name in (*task.metrics, "invalid"))


def get_metric(name: str) -> Metric:
    """Return the metric called ``name``.

    Raises:
        ConfigError: The metric is unknown; the message lists all metrics.

    Example:
        >>> from program import get_task
        >>> metric = get_metric("mae")
        >>> metric.score(predictions=["4", "1"], golds=["5", "1"], task=get_task("LaMP-3"))
        0.5
        >>> metric.unit, metric.better
        ('stars', 'lower')
    """
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}; use one of {', '.join(METRICS)}")
    return METRICS[name]


def scores(predictions: Sequence[str], golds: Sequence[str], task: Task) -> tuple[Score, ...]:
    """Score answers with every metric of ``task``. Raises the errors of `Metric.rows`."""
    return tuple(
        Score(
            name=metric.name,
            value=metric.score(predictions, golds, task),
            unit=metric.unit,
            better=metric.better,
            n=len(golds),
        )
        for metric in metrics_of(task)
    )


def likelihood_rows(probabilities: Sequence[Mapping[str, float]], golds: Sequence[str], task: Task) -> Floats:
    """Return the terms of `LOG_LIKELIHOOD` for each answer, shape ``(answers, 2)``.

    Args:
        probabilities: Label or rating to probability, for each answer.
        golds: The true answers. One without a probability, such as a label that the task lacks, has
            `LEAST_PROBABILITY`.
        task: The task; its answers are labels or ratings.

    Raises:
        ConfigError: The lengths differ, there are no answers, or answers are free text.

    Example:
        >>> from program import get_task
        >>> given = [{"4": 0.5, "5": 0.5}, {"4": 1.0, "5": 0.0}]
        >>> rows = likelihood_rows(given, golds=["5", "5"], task=get_task("LaMP-3"))
        >>> [round(float(term), 2) for term in rows[:, 0]]
        [-0.69, -20.72]
    """
    if len(probabilities) != len(golds) or not golds:
        raise ConfigError(
            "the log-likelihood needs as many golds as probabilities and at least one, "
            f"got {len(golds)} and {len(probabilities)}"
        )
    if not has_likelihood(task):
        raise ConfigError(f"answers of `{task.name}` are free text, which has no label probabilities")
    truths = [_gold_label(gold, task.answer) for gold in golds]
    given = [p.get(truth, 0.0) for p, truth in zip(probabilities, truths, strict=True)]
    return np.array([[math.log(max(p, LEAST_PROBABILITY)), 1.0] for p in given])


def has_likelihood(task: Task) -> bool:
    """Return whether a method can give a probability for each possible answer of ``task``."""
    return not isinstance(task.answer, Text)


def is_valid(prediction: str, task: Task) -> bool:
    """Return whether a prediction fits the task's answer type. Stricter than LaMP's rating parser."""
    return fits(task.answer, prediction)


def invalid_share(answers: Sequence[tuple[str, bool]], task: Task) -> float | None:
    """Return the share of invalid answers, given each text and whether its method parsed it.

    An answer that the method could not parse is invalid even if its text fits the task. Returns
    ``None`` if there are no answers.
    """
    if not answers:
        return None
    return sum(not parsed or not is_valid(text, task) for text, parsed in answers) / len(answers)


def _gold_label(gold: str, answer: AnswerType) -> str:
    """Return a gold in the form of the labels; white space around it is ignored, as in an answer."""
    try:
        return answer.parse(gold)
    except UnparsableAnswerError:
        return gold


def _mean(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _root_mean(sums: Floats) -> Floats:
    return np.sqrt(_mean(sums))


def _index(text: str, task: LampTask) -> int:
    labels = _labels(task)
    text = text.strip()
    return labels.index(text) if text in labels else -1


def _labels(task: LampTask) -> tuple[str, ...]:
    labels = task.labels()
    if not labels:
        raise ConfigError(f"task `{task.name}` has no labels, so its metrics cannot be `accuracy` or `f1`")
    return labels


def _accuracy(prediction: str, gold: str, task: LampTask) -> Sequence[float]:
    # LaMP maps unknown predictions and unknown golds to -1, so they are equal.
    return _index(prediction, task) == _index(gold, task), 1


def _confusion(prediction: str, gold: str, task: LampTask) -> Sequence[float]:
    size = len(_labels(task))
    row = [0.0] * (2 * size)
    predicted_index, gold_index = _index(prediction, task), _index(gold, task)
    if predicted_index == gold_index != -1:
        row[gold_index] = 1.0
    for index in (predicted_index, gold_index):
        if index != -1:
            row[size + index] += 1.0
    return row


def _macro_f1(sums: Floats) -> Floats:
    # 2 TP + FP + FN is the number of predictions of the class plus the number of its golds.
    hits, mentions = np.split(sums, 2, axis=-1)
    f1 = np.divide(2 * hits, mentions, out=np.zeros_like(mentions), where=mentions > 0)
    return np.asarray(np.ascontiguousarray(f1).mean(axis=-1))


def _distance(prediction: str, gold: str) -> float:
    gold_rating = as_number(gold)
    if gold_rating is None:
        raise DataError(f"gold {gold[:40]!r} is not a number; is this the gold file of a rating task?")
    rating = as_number(prediction)
    if rating is None:
        rating = 1.0 if gold_rating > 3 else 5.0
    return rating - gold_rating


def as_number(text: str) -> float | None:
    """Return a rating as LaMP's scorer parses it; ``None`` if it cannot."""
    try:
        value = float(text.strip())
    except ValueError:
        return None
    # LaMP's scorer keeps ratings in 32 bits.
    return value if abs(value) <= _LARGEST else None


def _absolute(prediction: str, gold: str, task: LampTask) -> Sequence[float]:
    return abs(_distance(prediction, gold)), 1


def _squared(prediction: str, gold: str, task: LampTask) -> Sequence[float]:
    return _distance(prediction, gold) ** 2, 1


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    # LaMP's settings: no stemming.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)


def _rouge(key: str) -> Callable[[str, str, LampTask], Sequence[float]]:
    def terms(prediction: str, gold: str, task: LampTask) -> Sequence[float]:
        return _rouge_scorer().score(gold.strip(), prediction.strip())[key].fmeasure, 1

    return terms


def _chrf(prediction: str, gold: str, task: LampTask) -> Sequence[float]:
    return chrf(prediction, gold), 1


def _invalid(prediction: str, gold: str, task: LampTask) -> Sequence[float]:
    return not is_valid(prediction, task), 1


def _by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS = _by_name(
    [
        Metric("accuracy", "Accuracy", "share", "higher", _mean, _accuracy),
        Metric("f1", "Macro F1", "share", "higher", _macro_f1, _confusion),
        Metric("mae", "MAE", "stars", "lower", _mean, _absolute),
        Metric("rmse", "RMSE", "stars", "lower", _root_mean, _squared),
        Metric("rouge-1", "ROUGE-1", "share", "higher", _mean, _rouge("rouge1")),
        Metric("rouge-L", "ROUGE-L", "share", "higher", _mean, _rouge("rougeL")),
        Metric("chrf", "chrF", "share", "higher", _mean, _chrf),
        Metric("invalid", "Invalid", "share", "lower", _mean, _invalid),
    ]
)
"""All metrics of answer texts, by name."""

LOG_LIKELIHOOD = Measure("log-likelihood", "Log-likelihood", "nats", "higher", _mean)
"""Mean natural logarithm of the probability of the true answer; the terms are `likelihood_rows`."""
