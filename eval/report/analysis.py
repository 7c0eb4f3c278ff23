"""What more than one section needs of a run, worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from eval.metrics import Metric, get_metric
from eval.report.compare import Comparison, MethodScores, compare_all, score_method
from eval.report.data import MethodRun, ReportRun
from program.errors import ConfigError

FULL_METHOD = "personaagent"
"""Family of the method that the project is about."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A run, scored and compared.

    Attributes:
        methods: The reference first, then the rest in the run's order, floors last.
        metrics: The task's, main one first.
        scores: By metric name, one for each method in order.
    """

    run: ReportRun
    methods: Sequence[MethodRun]
    metrics: Sequence[Metric]
    scores: Mapping[str, Sequence[MethodScores]]

    @cached_property
    def comparisons(self) -> Mapping[str, Sequence[Comparison]]:
        """By metric name, every pair once; the reference is always A. Slow, so made when asked for."""
        return {name: compare_all(of_metric) for name, of_metric in self.scores.items()}

    @property
    def reference(self) -> MethodRun:
        """The method that the others are held against."""
        return self.methods[0]

    @property
    def main(self) -> Metric:
        """The task's main metric."""
        return self.metrics[0]

    @property
    def against_reference(self) -> list[Comparison]:
        """The reference minus each other method, main metric."""
        return [c for c in self.comparisons[self.main.name] if c.a == self.reference.name]


def analyse(run: ReportRun, reference: str | None = None) -> Analysis:
    """Score the methods of a run, ready to be compared.

    Args:
        run: With at least one method.
        reference: Name of the method to hold the others against; by default `personaagent`, else
            the first that needs a model, else the first.

    Raises:
        ConfigError: No method of that name took part.
    """
    first = _reference(run.methods, reference)
    rest = [method for method in run.methods if method is not first]
    methods = [first, *sorted(rest, key=lambda method: method.trivial)]
    metrics = [get_metric(name) for name in run.task.metrics]
    return Analysis(
        run=run,
        methods=methods,
        metrics=metrics,
        scores={m.name: [score_method(method, m, run.task) for method in methods] for m in metrics},
    )


def _reference(methods: Sequence[MethodRun], name: str | None) -> MethodRun:
    if name is not None:
        for method in methods:
            if method.name == name:
                return method
        known = ", ".join(method.name for method in methods)
        raise ConfigError(f"`reference` {name!r} took no part in this run; choose one of: {known}")
    ours = [method for method in methods if method.family == FULL_METHOD]
    return [*ours, *(method for method in methods if not method.trivial), *methods][0]
