"""Scores every method of a run and compares them; several sections share the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from eval.metrics import LOG_LIKELIHOOD, Measure, Metric, get_metric, has_likelihood
from eval.report.compare import (
    Comparison,
    MethodScores,
    answers_with_probabilities,
    compare_all,
    score_likelihood,
    score_method,
)
from eval.report.data import MethodRun, ReportRun
from program.errors import ConfigError

FULL_METHOD = "personaagent"
"""Family of the method without ablations."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A run with its scores and comparisons.

    Attributes:
        methods: The reference first, then the others in the run's order, trivial baselines last.
        metrics: The task's metrics, main metric first.
        has_likelihood: Whether any answer has probabilities; the log-likelihood is then scored as well.
        scores: By name of the measure, one for each of ``methods``, in that order.
    """

    run: ReportRun
    methods: Sequence[MethodRun]
    metrics: Sequence[Metric]
    has_likelihood: bool
    scores: Mapping[str, Sequence[MethodScores]]

    @cached_property
    def comparisons(self) -> Mapping[str, Sequence[Comparison]]:
        """By name of the measure, each pair of methods once; the reference is always A.

        Computed on first use, because the resampling is slow.
        """
        return {name: compare_all(scores) for name, scores in self.scores.items()}

    @property
    def measures(self) -> Sequence[Measure]:
        """The task's metrics, and the log-likelihood if any answer has probabilities."""
        return [*self.metrics, *([LOG_LIKELIHOOD] if self.has_likelihood else [])]

    @property
    def reference(self) -> MethodRun:
        """The method that the others are compared with."""
        return self.methods[0]

    @property
    def main(self) -> Metric:
        """The task's main metric."""
        return self.metrics[0]

    @property
    def against_reference(self) -> list[Comparison]:
        """The reference minus each other method, main metric only."""
        return self.against(self.main)

    def against(self, measure: Measure) -> list[Comparison]:
        """Return the reference minus each other method under one of `measures`."""
        return [c for c in self.comparisons[measure.name] if c.a == self.reference.name]

    @property
    def persona_method(self) -> MethodRun | None:
        """The first method with personas, in the order of ``methods``; ``None`` if no method has any."""
        return next((method for method in self.methods if method.personas), None)


def analyse(run: ReportRun, reference: str | None = None) -> Analysis:
    """Score all methods of a run.

    Args:
        run: A run with at least one method.
        reference: Name of the method that the others are compared with; by default `personaagent`,
            otherwise the first method that is not a trivial baseline, otherwise the first.

    Raises:
        ConfigError: The run has no method named ``reference``.
    """
    first = _reference(run.methods, reference)
    others = [method for method in run.methods if method is not first]
    methods = [first, *sorted(others, key=lambda method: method.trivial)]
    metrics = [get_metric(name) for name in run.task.metrics]
    scores = {m.name: [score_method(method, m, run.task) for method in methods] for m in metrics}
    likelihood = has_likelihood(run.task) and any(map(answers_with_probabilities, methods))
    if likelihood:
        scores[LOG_LIKELIHOOD.name] = [score_likelihood(method, run.task) for method in methods]
    return Analysis(run=run, methods=methods, metrics=metrics, has_likelihood=likelihood, scores=scores)


def _reference(methods: Sequence[MethodRun], name: str | None) -> MethodRun:
    if name is not None:
        for method in methods:
            if method.name == name:
                return method
        names = ", ".join(method.name for method in methods)
        raise ConfigError(f"`reference` {name!r} is not a method of this run; choose one of: {names}")
    full = [method for method in methods if method.family == FULL_METHOD]
    return [*full, *(method for method in methods if not method.trivial), *methods][0]
