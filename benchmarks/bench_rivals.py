"""What optimizers gain on held-out queries for the rollouts that they use, as a table and a figure.

    .venv/bin/python benchmarks/bench_rivals.py RUN [--before LABEL] [--out FIGURE.svg]

For each method of an evaluation run that prepares with rollouts: their mean number for a user, and the gain
in log-likelihood and in accuracy over the first persona, with 95 % intervals over the users of whom both have
all answers. Every answer of the agent to a past interaction counts as a rollout. Prints Markdown; the figure
shows the log-likelihood.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.metrics import LOG_LIKELIHOOD, Measure, get_metric, likelihood_rows
from eval.records import AnswerRecord, QueryRecord, Run, read_run
from eval.report.charts import INK, LINES, MARKERS, draw
from eval.statistics import Interval, difference
from program.task import Task, get_task


@dataclass(frozen=True)
class Point:
    """One method: its name, rollouts a user, and gains over the first persona."""

    name: str
    label: str
    rollouts: float
    likelihood: Interval
    accuracy: Interval


def answered(run: Run, label: str, query: QueryRecord) -> AnswerRecord | None:
    """Return a method's answer; ``None`` if it is missing."""
    answer = run.answer(label, query)
    return None if answer is None or answer.failed is not None else answer


def measure(run: Run, task: Task, label: str, before: str) -> Point:
    """Return the point of one method on the queries that it and the first persona have answered."""
    queries = [query for query in run.queries if all(answered(run, name, query) for name in (label, before))]
    golds = [str(query.gold) for query in queries]
    users = [query.user_id for query in queries]
    answers = {
        name: [answer for query in queries if (answer := answered(run, name, query)) is not None]
        for name in (label, before)
    }
    graded = {
        name: likelihood_rows([answer.probabilities or {} for answer in given], golds, task)
        for name, given in answers.items()
    }
    accuracy = get_metric("accuracy")
    right = {
        name: accuracy.rows([str(answer.text) for answer in given], golds, task)
        for name, given in answers.items()
    }

    def gain(rows: Any, metric: Measure) -> Interval:
        return difference(rows[label], rows[before], users, metric).interval

    used = [(run.prepared[label, user].learned or {}).get("agent_runs", 0) for user in dict.fromkeys(users)]
    return Point(
        name=run.manifest.methods[label].name,
        label=label,
        rollouts=fmean(used),
        likelihood=gain(graded, LOG_LIKELIHOOD),
        accuracy=gain(right, accuracy),
    )


def show(interval: Interval) -> str:
    """Return an interval as text."""
    return f"{interval.value:+.2f} [{interval.low or 0:+.2f}, {interval.high or 0:+.2f}]"


def figure(points: Sequence[Point], title: str) -> str:
    """Return the figure as SVG: gain against rollouts, a marker for each optimizer."""
    by_name: dict[str, list[Point]] = defaultdict(list)
    for point in sorted(points, key=lambda point: point.rollouts):
        by_name[point.name].append(point)

    def paint(axes: Any) -> None:
        axes.axhline(0, color=INK, linewidth=0.6)
        for number, (name, own) in enumerate(by_name.items()):
            values = [point.likelihood.value for point in own]
            low = [point.likelihood.value - (point.likelihood.low or 0) for point in own]
            high = [(point.likelihood.high or 0) - point.likelihood.value for point in own]
            axes.errorbar(
                [point.rollouts for point in own],
                values,
                yerr=[low, high],
                label=name,
                color=INK,
                marker=MARKERS[number],
                linestyle=LINES[number % len(LINES)],
                linewidth=0.9,
                markersize=5,
                capsize=2,
            )
        axes.set_xlabel("rollouts used for a user, mean")
        axes.set_ylabel("gain over the first persona,\nlog-likelihood of the true answer (nats)")
        axes.set_title(title, fontsize=9.5, loc="left")
        axes.legend(loc="upper right", ncols=4)

    return draw("rivals", 6.4, 3.6, paint)


def main() -> None:
    """Print the table of one run folder and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--before", default="grounded:tools=false,steps=0")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = read_run(options.run)
    task = get_task(run.manifest.task)
    labels = [
        label
        for label in run.labels
        if label != options.before
        and any(
            "agent_runs" in (record.learned or {})
            for (name, _), record in run.prepared.items()
            if name == label
        )
    ]
    points = [measure(run, task, label, options.before) for label in labels]
    print("| method | users | rollouts a user | gain in log-likelihood | gain in accuracy |")
    print("|---|--:|--:|---|---|")
    for point in points:
        print(
            f"| `{point.label}` | {point.likelihood.users} | {point.rollouts:.1f} "
            f"| {show(point.likelihood)} | {show(point.accuracy)} |"
        )
    if options.out:
        most = max((point.likelihood for point in points), key=lambda interval: interval.n)
        title = f"{task.name}-like, {most.users} users, n = {most.n}, 95 % intervals over users"
        options.out.write_text(figure(points, title), encoding="utf-8")


if __name__ == "__main__":
    main()
