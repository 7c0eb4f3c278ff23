"""The results: no score without its n, interval, floor, invalid rate, gaps and cost."""

from __future__ import annotations

from collections import Counter

from eval.report.analysis import Analysis
from eval.report.charts import Bar, forest
from eval.report.compare import findings, invalid_share
from eval.report.costs import cost_cells, total_cells, usd_column
from eval.report.data import MethodRun, ReportRun
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


def section(analysis: Analysis) -> Section:
    """Return the main table, its chart, and what may be said in words."""
    table = main_table(analysis)
    return Section(
        id="results",
        title="Results",
        text=findings(analysis.against_reference, analysis.main),
        tables=[table, *_missing_table(analysis.run)],
        figures=[_figure(analysis, table)],
    )


def main_table(analysis: Analysis) -> Table:
    """Return one row for each method, floors first."""
    run = analysis.run
    return Table(
        name="main",
        title=f"{run.label}{f', model {run.model}' if run.model else ''}",
        rows=[_row(analysis, method) for method in sorted(analysis.methods, key=lambda m: not m.trivial)],
        columns=[
            Column("Method", lambda row: f"{row['method']}{' (floor)' if row['floor'] else ''}", False),
            plain("n", "n"),
            plain("users", "Users"),
            *(interval_column(metric.name, heading(metric)) for metric in analysis.metrics),
            invalid_column(),
            plain("missing", "Missing"),
            plain("prepare_calls_each", "Calls to prepare a user", digits=1),
            plain("answer_calls_each", "Calls an answer", digits=1),
            plain("answer_seconds_each", "Seconds an answer", digits=2),
            plain("tokens", "Tokens, all"),
            usd_column("USD, all"),
        ],
        notes=[
            "In brackets: 95 % intervals over users. n: answers that were scored.",
            "Invalid: share of them that do not fit the answer's type; scored as LaMP's scorer does. "
            "Missing: queries without an answer; never scored as wrong.",
            "A floor needs no model: it is what a method must beat to be worth its calls.",
        ],
    )


def _row(analysis: Analysis, method: MethodRun) -> Row:
    place = list(analysis.methods).index(method)
    answered = analysis.scores[analysis.main.name][place]
    scored: dict[str, Scalar] = {}
    for name, row in analysis.scores.items():
        scored |= interval_cells(name, row[place].interval)
    return {
        "method": method.name,
        "floor": int(method.trivial),
        "n": len(answered.users),
        "users": len(set(answered.users)),
        **scored,
        "invalid": invalid_share(method, analysis.run.task),
        "missing": method.missing,
        **total_cells([method.prepare, method.answer]),
        **{
            f"{stage}_{key}": value
            for stage in ("prepare", "answer")
            for key, value in cost_cells(method, stage).items()
        },
    }


def _missing_table(run: ReportRun) -> list[Table]:
    counts = [
        (method.name, Counter(a.failure or "unknown" for a in method.answers if a.prediction is None))
        for method in run.methods
    ]
    rows: list[Row] = [
        {"method": name, "why": why, "missing": number}
        for name, reasons in counts
        for why, number in sorted(reasons.items())
    ]
    columns = [
        plain("method", "Method", number=False),
        plain("why", "Why", number=False),
        plain("missing", "Missing"),
    ]
    return [Table(name="missing", title="Missing answers", rows=rows, columns=columns)] if rows else []


def _figure(analysis: Analysis, table: Table) -> Figure:
    metric = analysis.main
    kept = ("method", "floor", "n", "users", *interval_cells(metric.name, None))
    numbers = Table(
        name="scores",
        title=f"{metric.title} of every method",
        rows=[{key: row[key] for key in kept} for row in table.rows],
        columns=[*table.columns[:3], interval_column(metric.name, heading(metric))],
    )
    bars = [
        Bar.of(str(row["method"]), row, metric.name, "hollow" if row["floor"] else "filled")
        for row in numbers.rows
    ]
    return Figure(
        caption="Dots are values, lines are 95 % intervals over users, hollow dots are floors. Whether two "
        "methods differ is not to be read here but in the differences, which are taken query by query.",
        alt=f"{metric.title} and interval of each method, as in the table of numbers.",
        svg=forest("scores", bars, heading(metric)),
        numbers=numbers,
    )
