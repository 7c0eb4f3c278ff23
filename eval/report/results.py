"""Results section: every method's scores with interval, n, invalid and missing answers, and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.metrics import LOG_LIKELIHOOD, Measure
from eval.report.analysis import Analysis
from eval.report.charts import ForestRow, forest
from eval.report.compare import Comparison, answers_with_probabilities, invalid_share
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
    key_column,
    show,
)

_ALPHA = 0.05
_WITH_PROBABILITIES = f"{LOG_LIKELIHOOD.name}_n"
_LIKELIHOOD_NOTE = (
    "Log-likelihood: mean natural logarithm of the probability that the method gives to the true answer, "
    "counted as at least 1e-9. It is empty for a method that does not give probabilities "
    "for all of its scored answers; in parentheses, for how many of them it does."
)


def section(analysis: Analysis) -> Section:
    """Return the findings, the main table and its chart."""
    table = main_table(analysis)
    return Section(
        id="results",
        title="Results",
        text=[*findings(analysis.against_reference, analysis.main), *_likelihood_findings(analysis)],
        tables=[table, *_missing_table(analysis.run)],
        figures=[_figure(analysis, table)],
    )


def main_table(analysis: Analysis) -> Table:
    """Return one row for each method, trivial baselines first."""
    run = analysis.run
    return Table(
        name="main",
        title=f"{run.label}{f', model {run.model}' if run.model else ''}",
        rows=[_row(analysis, method) for method in sorted(analysis.methods, key=lambda m: not m.trivial)],
        columns=[
            Column("Method", lambda row: f"{row['method']}{' (floor)' if row['floor'] else ''}", False),
            key_column("n", "n"),
            key_column("users", "Users"),
            *(interval_column(metric.name, heading(metric)) for metric in analysis.metrics),
            *([_likelihood_column()] if analysis.has_likelihood else []),
            invalid_column(),
            key_column("missing", "Missing"),
            key_column("prepare_calls_each", "Calls to prepare a user", digits=1),
            key_column("answer_calls_each", "Calls per answer", digits=1),
            key_column("answer_seconds_each", "Seconds per answer", digits=2),
            key_column("tokens", "Tokens"),
            usd_column("USD"),
        ],
        notes=[
            "Brackets: 95 % intervals over users. n: scored answers.",
            "Invalid: share of scored answers that do not fit the answer's type; they are scored as LaMP's "
            "scorer does. Missing: queries without an answer; never scored as wrong.",
            *([_LIKELIHOOD_NOTE] if analysis.has_likelihood else []),
            "Tokens and USD: preparing and answering together.",
            "“floor” marks a trivial baseline: it needs no model, and a method that does not beat it is not "
            "worth its calls.",
        ],
    )


def _likelihood_findings(analysis: Analysis) -> list[str]:
    """Return the findings for the log-likelihood, without the methods that give no probabilities."""
    if not analysis.has_likelihood:
        return []
    compared = [comparison for comparison in analysis.against(LOG_LIKELIHOOD) if not comparison.refused]
    return findings(compared, LOG_LIKELIHOOD)


def findings(comparisons: Sequence[Comparison], metric: Measure) -> list[str]:
    """Return one sentence for each verdict on the reference, which is A in every comparison."""
    if not comparisons:
        return []
    groups: dict[str, list[str]] = {"better": [], "worse": [], "undecided": [], "refused": []}
    for comparison in comparisons:
        difference = comparison.difference
        groups[difference.verdict if difference else "refused"].append(comparison.b)
    name = comparisons[0].a
    sentences = {
        "better": f"{metric.title}: {name} is better than {{}}.",
        "worse": f"{metric.title}: {name} is worse than {{}}.",
        "undecided": f"{metric.title}: {name} against {{}} is undecided: the interval includes zero, or "
        "there are too few users.",
        "refused": f"{metric.title}: {name} is not compared with {{}}; the table of differences says why.",
    }
    lines = [sentences[verdict].format(_join(names)) for verdict, names in groups.items() if names]
    weak = [c.b for c in comparisons if c.p_holm and c.p_holm >= _ALPHA and c.verdict.endswith("better")]
    if weak:
        lines.append(
            f"After Holm's correction over all pairs of the run, the difference from {_join(weak)} in "
            f"{metric.title} could still be chance (p of {_ALPHA} or more)."
        )
    return lines


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _row(analysis: Analysis, method: MethodRun) -> Row:
    index = list(analysis.methods).index(method)
    main_scores = analysis.scores[analysis.main.name][index]
    cells: dict[str, Scalar] = {}
    for name, scores in analysis.scores.items():
        cells |= interval_cells(name, scores[index].interval)
    if analysis.has_likelihood:
        cells[_WITH_PROBABILITIES] = answers_with_probabilities(method)
    return {
        "method": method.name,
        "floor": int(method.trivial),
        "n": len(main_scores.users),
        "users": len(set(main_scores.users)),
        **cells,
        "invalid": invalid_share(method, analysis.run.task),
        "missing": method.missing,
        **total_cells([method.prepare, method.answer]),
        **{
            f"{stage}_{key}": value
            for stage in ("prepare", "answer")
            for key, value in cost_cells(method, stage).items()
        },
    }


def _likelihood_column() -> Column:
    """Return the column of the log-likelihood; an empty cell says how many answers have probabilities."""
    interval = interval_column(LOG_LIKELIHOOD.name, heading(LOG_LIKELIHOOD))

    def text(row: Row) -> str:
        if row[LOG_LIKELIHOOD.name] is not None or not row["n"]:
            return interval.show(row)
        return f"{show(None)} ({show(row[_WITH_PROBABILITIES])} of {show(row['n'])})"

    return Column(interval.title, text)


def _missing_table(run: ReportRun) -> list[Table]:
    """Return the missing answers by method and reason; no table if no answer is missing."""
    rows: list[Row] = [
        {"method": method.name, "why": why, "missing": count}
        for method in run.methods
        for why, count in sorted(
            Counter(a.failure or "unknown" for a in method.answers if a.prediction is None).items()
        )
    ]
    columns = [
        key_column("method", "Method", number=False),
        key_column("why", "Reason", number=False),
        key_column("missing", "Missing"),
    ]
    return [Table(name="missing", title="Missing answers", rows=rows, columns=columns)] if rows else []


def _figure(analysis: Analysis, table: Table) -> Figure:
    metric = analysis.main
    keys = ("method", "floor", "n", "users", *interval_cells(metric.name, None))
    numbers = Table(
        name="scores",
        title=f"{metric.title} of every method",
        rows=[{key: row[key] for key in keys} for row in table.rows],
        columns=[*table.columns[:3], interval_column(metric.name, heading(metric))],
    )
    rows = [
        ForestRow.from_cells(
            str(row["method"]), row, metric.name, marker="hollow" if row["floor"] else "filled"
        )
        for row in numbers.rows
    ]
    return Figure(
        caption="Dots: values. Lines: 95 % intervals over users. Hollow dots: trivial baselines. To see "
        "whether two methods differ, read the differences below, which are paired by query; do not compare "
        "the intervals here.",
        alt=f"{metric.title} and interval of each method; the table of numbers has the values.",
        svg=forest("scores", rows, heading(metric)),
        numbers=numbers,
    )
