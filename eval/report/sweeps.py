"""Sweep section: how scores and costs change with one setting, such as batch size or base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.metrics import Metric, get_metric
from eval.report.charts import INK, LINES, MARKERS, draw
from eval.report.compare import Comparison, MethodScores, compare, correct, invalid_share, score_method
from eval.report.costs import cost_cells, total_cells, usd_column
from eval.report.data import MethodRun, ReportRun, Sweep
from eval.report.section import Figure, Section
from eval.report.table import (
    Column,
    Row,
    Scalar,
    Table,
    heading,
    interval_cells,
    interval_column,
    invalid_column,
    key_column,
    p_value,
)
from program.plugins import split_spec

_TITLES = {
    "batch": "alignment batch size (batch)",
    "steps": "alignment steps (steps)",
    "k": "retrieved memories (k)",
    "model": "base model",
}

_LONG_LABEL = 12
"""Tick labels with more characters than this, such as names of models, are slanted."""


def section(sweep: Sweep) -> Section:
    """Return a sweep's chart and table."""
    first = sweep.points[0]
    metric = get_metric(first.run.task.metrics[0])
    table = _table(sweep, metric)
    title = _TITLES.get(sweep.setting, sweep.setting)
    return Section(
        id=sweep.name,
        title=f"{first.run.label}: {title}",
        text=[
            "Each point is a separate run that differs only in this setting. The table compares each run "
            f"with the first one ({sweep.setting}={first.value}) query by query; if a verdict is undecided, "
            "the slope of the line is not a finding."
        ],
        figures=[
            Figure(
                caption="Points: values. Vertical lines: 95 % intervals over users. Each method has its own "
                "marker and line style; the sideways shift only keeps intervals apart.",
                alt=f"{metric.title} of each method by {title}; the table of numbers has the values.",
                svg=_chart(sweep, metric, table.rows),
                numbers=table,
                open=True,
            )
        ],
    )


def _table(sweep: Sweep, metric: Metric) -> Table:
    scores_by_name = _scores_by_name(sweep, metric)
    uncorrected = {
        (name, value): compare(scores, next(iter(by_value.values())))
        for name, by_value in scores_by_name.items()
        for value, scores in list(by_value.items())[1:]
    }
    changes = dict(zip(uncorrected, correct(list(uncorrected.values())), strict=True))
    rows: list[Row] = []
    for name, by_value in scores_by_name.items():
        for point in sweep.points:
            if (scores := by_value.get(point.value)) is not None:
                cells = _cells(point.run, scores, changes.get((name, point.value)))
                rows.append({"over": sweep.setting, "value": point.value, "method": name, **cells})
    differs = any(row["change_n"] not in (None, row["n"]) for row in rows)
    shared = [key_column("change_n", "Shared n"), key_column("change_users", "Shared users")]
    return Table(
        name=sweep.name,
        title=f"{metric.title} by {sweep.setting}",
        rows=rows,
        columns=[
            key_column("method", "Method", number=False),
            key_column("value", sweep.setting),
            key_column("n", "n"),
            key_column("users", "Users"),
            interval_column(metric.name, heading(metric)),
            invalid_column(),
            key_column("missing", "Missing"),
            interval_column("change", "Change from first", difference=True),
            *(shared if differs else []),
            Column("p (Holm)", lambda row: p_value(row["p_holm"])),
            key_column("verdict", "Verdict", number=False),
            key_column("prepare_calls_each", "Calls to prepare a user", digits=1),
            key_column("answer_calls_each", "Calls per answer", digits=1),
            key_column("tokens", "Tokens"),
            usd_column("USD"),
        ],
    )


def _scores_by_name(sweep: Sweep, metric: Metric) -> dict[str, dict[str, MethodScores]]:
    """Return scores by method, then by the setting's value; runs may list methods in different orders."""
    scores: dict[str, dict[str, MethodScores]] = {}
    for point in sweep.points:
        for method in point.run.methods:
            name = f"{_name_without(sweep.setting, method)}{' (floor)' if method.trivial else ''}"
            scores.setdefault(name, {})[point.value] = score_method(method, metric, point.run.task)
    return scores


def _cells(run: ReportRun, scores: MethodScores, change: Comparison | None) -> dict[str, Scalar]:
    method = scores.method
    difference = change.difference if change else None
    verdict = difference.verdict if difference else change.verdict if change else None
    return {
        "model": run.model,
        "n": len(scores.users),
        "users": len(set(scores.users)),
        **interval_cells(scores.metric.name, scores.interval),
        "invalid": invalid_share(method, run.task),
        "missing": method.missing,
        "prepare_calls_each": cost_cells(method, "prepare")["calls_each"],
        "answer_calls_each": cost_cells(method, "answer")["calls_each"],
        **total_cells([method.prepare, method.answer]),
        **interval_cells("change", difference.interval if difference else None),
        "change_n": difference.interval.n if difference else None,
        "change_users": difference.interval.users if difference else None,
        "p_holm": change.p_holm if change else None,
        "verdict": verdict,
    }


def _name_without(setting: str, method: MethodRun) -> str:
    """Return a method's label without one setting: ``personaagent`` for ``personaagent:k=1`` and ``k``."""
    name, settings = split_spec(method.name)
    others = ",".join(f"{key}={value}" for key, value in settings.items() if key != setting)
    return f"{name}:{others}" if others else name


def _chart(sweep: Sweep, metric: Metric, rows: Sequence[Row]) -> str:
    values = [point.value for point in sweep.points]
    names = list(dict.fromkeys(row["method"] for row in rows))

    def paint(axes: Any) -> None:
        for number, name in enumerate(names):
            shift = 0.07 * (number - (len(names) - 1) / 2)
            points = [row for row in rows if row["method"] == name and row[metric.name] is not None]
            xs = [values.index(str(row["value"])) + shift for row in points]
            for x, row in zip(xs, points, strict=True):
                if row[f"{metric.name}_low"] is not None:
                    ends = [row[f"{metric.name}_low"], row[f"{metric.name}_high"]]
                    axes.plot([x, x], ends, color=INK, linewidth=1.0)
            axes.plot(
                xs,
                [row[metric.name] for row in points],
                color=INK,
                linestyle=LINES[number % len(LINES)],
                linewidth=1.2,
                marker=MARKERS[number % len(MARKERS)],
                markerfacecolor="white" if number % 2 else INK,
                label=name,
            )
        axes.grid(visible=True, axis="y")
        slant = {"rotation": 15, "ha": "right"} if max(map(len, values)) > _LONG_LABEL else {}
        axes.set_xticks(range(len(values)), values, **slant)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xlabel(sweep.setting)
        axes.set_ylabel(heading(metric))
        axes.figure.legend(loc="outside lower center", ncols=3)

    return draw(sweep.name, 6.0, 3.6 + 0.2 * (len(names) // 3), paint)
