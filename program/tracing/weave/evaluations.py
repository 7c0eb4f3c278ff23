"""LoopResult evaluations as Weave evaluation results, so that Weave can compare methods and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from program.tracing.weave import private_api
from program.tracing.weave.tracer import WeaveTracer


@dataclass(frozen=True, kw_only=True)
class EvaluatedQuery:
    """One query of an evaluation and what a method answered.

    Attributes:
        user_id: Whose query it is: the row is found and forgotten by it.
        scores: By metric name; empty where there is no answer. A failure never becomes a score.
        error: Why there is no answer; empty otherwise.
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
    """Write one method's finished evaluation. Like every span, it never raises.

    Args:
        tracer: Where to; with a tracer that is off, do not call this.
        name: Of the evaluation: task and run, the same for all methods that are to be compared.
        method: Becomes the Weave model.
        settings: Every setting that changes the result.
        rows: One for each query.
        summary: The corpus metrics, with their n.
    """

    def write() -> None:
        import weave

        # Ids only: the texts stay in calls, which can be forgotten user by user.
        log = weave.EvaluationLogger(
            name=name,
            model={"name": _class_name(method), **tracer.policy.clean(settings)},
            dataset=_class_name(name),
            # One call per score and row would cost more than all else, and say nothing new.
            trace_scores=False,
        )
        failure: BaseException | None = None
        try:
            for row in rows:
                with weave.attributes({"user_id": tracer.policy.user(row.user_id)}):
                    asked = tracer.policy.clean({"query_id": row.query_id, "query": row.query})
                    said = tracer.policy.clean({"answer": row.answer, "error": row.error or None})
                    log.log_example(inputs=asked, output=said, scores=dict(row.scores))
            log.log_summary(dict(tracer.policy.clean(summary)))
        except BaseException as error:
            failure = error
            raise
        finally:
            private_api.close_evaluation(log, failure)

    tracer.records.attempt(write)


def _class_name(text: str) -> str:
    # Weave makes a class of it.
    cleaned = "".join(letter if letter.isalnum() else "_" for letter in text)
    return cleaned if cleaned[:1].isalpha() else f"m_{cleaned}"
