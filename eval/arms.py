"""Ways of answering the same queries, scored side by side; the demo shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.contracts import Query
from eval.metrics import LOG_LIKELIHOOD, Floats, Measure
from eval.statistics import Interval, difference, interval
from program.task import Task

_MEAN = Measure("mean", "Mean", "share", "higher", LOG_LIKELIHOOD.formula)


@dataclass(kw_only=True)
class Arm:
    """The scores of one way of answering, in the order of the queries.

    Attributes:
        agreement: With the golds, in [0, 1]; an unparsable answer counts 0.
        likelihood: Probability of each gold, from a model that gives it.
        unreadable: Number of unparsable answers.

    Example:
        >>> arm = Arm(agreement=[1.0, 0.0], likelihood=[0.75, 0.25])
        >>> arm.means()
        ('0.50 [0.00, 1.00]', '0.50 [0.25, 0.75]')
    """

    agreement: list[float] = field(default_factory=list)
    likelihood: list[float] = field(default_factory=list)
    unreadable: int = 0

    def add(self, answer: str | None, likelihood: float | None, query: Query, task: Task) -> None:
        """Score one answer; ``None`` if it cannot be read."""
        self.unreadable += answer is None
        self.agreement.append(0.0 if answer is None else task.answer.agreement(answer, str(query.gold)))
        if likelihood is not None:
            self.likelihood.append(likelihood)

    @property
    def has_likelihood(self) -> bool:
        """Whether the model gave the probability of every gold."""
        return len(self.likelihood) == len(self.agreement)

    def means(self) -> tuple[str, str]:
        """Return mean agreement and mean probability with their intervals; a dash without the latter."""
        likelihood = _show(interval(*_data(self.likelihood), _MEAN)) if self.has_likelihood else "-"
        return _show(interval(*_data(self.agreement), _MEAN)), likelihood


def compare(after: Arm, before: Arm) -> str:
    """Return the difference of two arms in words: of the probability if both have it, else of agreement.

    Example:
        >>> compare(Arm(agreement=[1.0, 1.0]), Arm(agreement=[0.0, 1.0]))
        'agreement +0.50 [+0.00, +1.00], undecided'
    """
    graded = after.has_likelihood and before.has_likelihood
    name = "likelihood" if graded else "agreement"
    rows, units = _data(getattr(after, name))
    result = difference(rows, _data(getattr(before, name))[0], units, _MEAN)
    label = "probability of the true answer" if graded else "agreement"
    return f"{label} {_show(result.interval, signed=True)}, {result.verdict}"


def _data(scores: Sequence[float]) -> tuple[Floats, list[str]]:
    """Return scores as terms of a mean. Each query is a unit of its own: there are few users."""
    rows = np.array([[score, 1.0] for score in scores])
    return rows, [str(number) for number in range(len(scores))]


def _show(result: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value = f"{result.value:{sign}.2f}"
    return value if result.low is None else f"{value} [{result.low:{sign}.2f}, {result.high:{sign}.2f}]"
