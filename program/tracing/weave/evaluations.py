"""Writes a method's evaluation as a Weave evaluation, so that Weave can compare methods and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from program.tracing.weave import private_api
from program.tracing.weave.tracer import WeaveTracer


@dataclass(frozen=True, kw_only=True)
class EvaluatedQuery:
    """One query of an evaluation and a method's answer to it.

    Attributes:
        user_id: The user of the query; forgetting this user deletes the row.
        scores: Metric name to score; empty without an answer. A failure never becomes a score.
        error: Why there is no answer; otherwise empty.
    """

    user_id: str
    query_id: str
    query: str
    answer: str | None
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


def log_evaluation(
    tracer: WeaveTracer,
    *,
    name: str,
    method: str,
    settings: Mapping[str, Any],
    rows: Iterable[EvaluatedQuery],
    summary: Mapping[str, Any],
) -> None:
    """Write one method's finished evaluation. Never raises, like every span.

    Args:
        tracer: The tracer that `open_tracer` yields.
        name: Task and run; methods with the same name can be compared.
        method: The method's label, which becomes a Weave model.
        settings: Every setting that changes the result.
        rows: One row per query.
        summary: Metrics over all rows, with their n.
    """

    def write() -> None:
        import weave

        # No texts in the model or dataset: only calls can be deleted by user.
        log = weave.EvaluationLogger(
            name=name,
            model={"name": _class_name(method), **tracer.policy.clean(settings)},
            dataset=_class_name(name),
            # One more call per score and row would cost the most and add no information.
            trace_scores=False,
        )
        failure: BaseException | None = None
        try:
            for row in rows:
                with weave.attributes({"user_id": tracer.policy.user(row.user_id)}):
                    inputs = tracer.policy.clean({"query_id": row.query_id, "query": row.query})
                    output = tracer.policy.clean({"answer": row.answer, "error": row.error or None})
                    log.log_example(inputs=inputs, output=output, scores=dict(row.scores))
            log.log_summary(dict(tracer.policy.clean(summary)))
        except BaseException as error:
            failure = error
            raise
        finally:
            private_api.close_evaluation(log, failure)

    tracer.records.attempt(write)


def _class_name(text: str) -> str:
    # Weave turns the name into a Python class name.
    cleaned = "".join(letter if letter.isalnum() else "_" for letter in text)
    return cleaned if cleaned[:1].isalpha() else f"m_{cleaned}"
