"""How results move with one setting: alignment batch, steps, memories k, the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.metrics import Metric, get_metric
from eval.report.charts import INK, LINES, MARKERS, draw
from eval.report.compare import Comparison, MethodScores, compare, corrected, invalid_share, score_method
from eval.report.costs import cost_cells, total_cells, usd_column
from eval.report.data import MethodRun, ReportRun, Sweep
from eval.report.differences import p_text
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
    plain,
)
from program.plugins import split_spec

_WHAT = {
    "batch": "interactions an alignment learns from (batch)",
    "steps": "alignment iterations (steps)",
    "k": "memories retrieved (k)",
    "model": "base model",
}

_LONG_VALUE = 12
"""Characters of a value, such as a model's name, from which the labels of the axis are slanted."""


def section(sweep: Sweep) -> Section:
    """Return a sweep's chart and table."""
    metric = get_metric(sweep.points[0].run.task.metrics[0])
    table = _table(sweep, metric)
    label, what = sweep.points[0].run.label, _WHAT.get(sweep.over, sweep.over)
    return Section(
        id=sweep.name,
        title=f"{label}: {what}",
        text=[
            "Each point is a run of its own, alike in everything but this setting. The table also "
            f"compares a run with the first one ({sweep.over}={sweep.points[0].value}) query by query; "
            "where it says undecided, the line's slope is not a finding."
        ],
        figures=[
            Figure(
                caption="Points are values, lines 95 % intervals over users; each method has its own marker "
                "and line style. Points are set side by side only to keep intervals apart.",
                alt=f"{metric.title} of each method by {what}, as in the table of numbers.",
                svg=_chart(sweep, metric, table.rows),
                numbers=table,
                open=True,
            )
        ],
    )


def _table(sweep: Sweep, metric: Metric) -> Table:
    by_name = _by_name(sweep, metric)
    plain_changes = {
        (name, value): compare(found, next(iter(scored.values())))
        for name, scored in by_name.items()
        for value, found in list(scored.items())[1:]
    }
    changes = dict(zip(plain_changes, corrected(list(plain_changes.values())), strict=True))
    rows: list[Row] = []
    for name, scored in by_name.items():
        for point in sweep.points:
            if (found := scored.get(point.value)) is not None:
                cells = _cells(point.run, found, changes.get((name, point.value)))
                rows.append({"over": sweep.over, "value": point.value, "method": name, **cells})
    apart = any(row["change_n"] not in (None, row["n"]) for row in rows)
    return Table(
        name=sweep.name,
        title=f"{metric.title} by {sweep.over}",
        rows=rows,
        columns=[
            plain("method", "Method", number=False),
            plain("value", sweep.over),
            plain("n", "n"),
            plain("users", "Users"),
            interval_column(metric.name, heading(metric)),
            invalid_column(),
            plain("missing", "Missing"),
            interval_column("change", "Minus the first", difference=True),
            *([plain("change_n", "n of both"), plain("change_users", "Users of both")] if apart else []),
            Column("p (Holm)", lambda row: p_text(row["p_holm"])),
            plain("verdict", "Against the first", number=False),
            plain("prepare_calls_each", "Calls to prepare a user", digits=1),
            plain("answer_calls_each", "Calls an answer", digits=1),
            plain("tokens", "Tokens, all"),
            usd_column("USD, all"),
        ],
    )


def _by_name(sweep: Sweep, metric: Metric) -> dict[str, dict[str, MethodScores]]:
    """Return each method's marks by the setting's value, whatever the order of the methods in a run."""
    found: dict[str, dict[str, MethodScores]] = {}
    for point in sweep.points:
        for method in point.run.methods:
            name = f"{_name(method, sweep.over)}{' (floor)' if method.trivial else ''}"
            found.setdefault(name, {})[point.value] = score_method(method, metric, point.run.task)
    return found


def _cells(run: ReportRun, found: MethodScores, change: Comparison | None) -> dict[str, Scalar]:
    difference = change.difference if change else None
    verdict = difference.verdict if difference else change.verdict if change else None
    prepare, answer = (cost_cells(found.method, stage) for stage in ("prepare", "answer"))
    return {
        "model": run.model,
        "n": len(found.users),
        "users": len(set(found.users)),
        **interval_cells(found.metric.name, found.interval),
        "invalid": invalid_share(found.method, run.task),
        "missing": found.method.missing,
        "prepare_calls_each": prepare["calls_each"],
        "answer_calls_each": answer["calls_each"],
        **total_cells([found.method.prepare, found.method.answer]),
        **interval_cells("change", difference.interval if difference else None),
        "change_n": difference.interval.n if difference else None,
        "change_users": difference.interval.users if difference else None,
        "p_holm": change.p_holm if change else None,
        "verdict": verdict,
    }


def _name(method: MethodRun, over: str) -> str:
    """Return a method's label without the setting that is swept: ``personaagent`` of ``personaagent:k=1``."""
    name, settings = split_spec(method.name)
    kept = ",".join(f"{key}={value}" for key, value in settings.items() if key != over)
    return f"{name}:{kept}" if kept else name


def _chart(sweep: Sweep, metric: Metric, rows: Sequence[Row]) -> str:
    values = [point.value for point in sweep.points]
    names = list(dict.fromkeys(row["method"] for row in rows))

    def paint(axes: Any) -> None:
        for number, name in enumerate(names):
            shift = 0.07 * (number - (len(names) - 1) / 2)
            found = [row for row in rows if row["method"] == name and row[metric.name] is not None]
            places = [values.index(str(row["value"])) + shift for row in found]
            for place, row in zip(places, found, strict=True):
                if row[f"{metric.name}_low"] is not None:
                    ends = [row[f"{metric.name}_low"], row[f"{metric.name}_high"]]
                    axes.plot([place, place], ends, color=INK, linewidth=1.0)
            axes.plot(
                places,
                [row[metric.name] for row in found],
                color=INK,
                linestyle=LINES[number % len(LINES)],
                linewidth=1.2,
                marker=MARKERS[number % len(MARKERS)],
                markerfacecolor="white" if number % 2 else INK,
                label=name,
            )
        axes.grid(visible=True, axis="y")
        slanted = {"rotation": 15, "ha": "right"} if max(map(len, values)) > _LONG_VALUE else {}
        axes.set_xticks(range(len(values)), values, **slanted)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xlabel(sweep.over)
        axes.set_ylabel(heading(metric))
        axes.figure.legend(loc="outside lower center", ncols=3)

    return draw(sweep.name, 6.0, 3.6 + 0.2 * (len(names) // 3), paint)
