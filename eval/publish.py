"""Publishes a finished run as Weave evaluations, one for each method that calls the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from eval.metrics import get_metric, invalid_share, scores
from eval.records import Run, read_run
from program.task import Task, get_task

if TYPE_CHECKING:
    from program.tracing.weave.evaluations import EvaluatedQuery
    from program.tracing.weave.tracer import WeaveTracer


def publish_run(tracer: WeaveTracer, out: Path) -> None:
    """Write the answers and scores of a run folder to the tracer, without the texts of queries."""
    from program.tracing.weave.evaluations import log_evaluation

    run = read_run(out)
    task = get_task(run.manifest.task)
    source = "LaMP" if run.manifest.official else "LaMP-like"
    for label, entry in run.manifest.methods.items():
        if entry.floor:
            continue
        log_evaluation(
            tracer,
            name=f"{task.name} {source} {run.manifest.started_at}",
            method=label,
            settings=entry.settings,
            rows=_rows(run, label, task),
            summary=_summary(run, label, task),
        )


def _rows(run: Run, label: str, task: Task) -> Iterator[EvaluatedQuery]:
    from program.tracing.weave.evaluations import EvaluatedQuery

    metric = get_metric(task.metrics[0])
    for query in run.queries:
        record = run.answer(label, query)
        answer = record.text if record is not None else None
        scored = answer is not None and query.gold is not None
        failed = record.failed if record is not None else None
        yield EvaluatedQuery(
            user_id=query.user_id,
            query_id=query.query_id,
            query="",
            answer=answer,
            scores={metric.name: metric.score([answer or ""], [query.gold or ""], task)} if scored else {},
            error=f"{failed.stage}: {failed.kind}" if failed else "" if record else "not attempted",
        )


def _summary(run: Run, label: str, task: Task) -> dict[str, float | int]:
    answered = [
        (record.text, query.gold, record.valid)
        for query in run.queries
        if query.gold is not None
        and (record := run.answer(label, query)) is not None
        and record.text is not None
    ]
    missing: dict[str, float | int] = {"n": len(answered), "missing": run.missing(label)}
    if not answered:
        return missing
    texts, golds, valid = zip(*answered, strict=True)
    by_metric = {score.name: score.value for score in scores(texts, golds, task)}
    invalid = invalid_share(list(zip(texts, valid, strict=True)), task) or 0.0
    return {**missing, **by_metric, "invalid": invalid}
