"""Differences and ablation sections: methods compared in pairs on the same queries."""

from __future__ import annotations

from collections.abc import Sequence

from eval.metrics import LOG_LIKELIHOOD, Measure
from eval.report.analysis import FULL_METHOD, Analysis
from eval.report.charts import ForestRow, forest
from eval.report.compare import Comparison
from eval.report.section import Figure, Section
from eval.report.table import (
    Column,
    Row,
    Table,
    heading,
    interval_cells,
    interval_column,
    key_column,
    p_value,
    show,
)


def section(analysis: Analysis) -> Section | None:
    """Return the reference against each other method, and all pairs; ``None`` for a single method."""
    if not analysis.against_reference:
        return None
    metric, name = analysis.main, analysis.reference.name
    pairs = sum(not comparison.refused for comparison in analysis.comparisons[metric.name])
    return Section(
        id="differences",
        title="Paired differences",
        text=[
            f"{name} minus each other method in {heading(metric)}, on the queries that both answered. "
            "A method is called better only if the 95 % interval over users excludes zero. With many "
            "comparisons, some intervals exclude zero by chance; the p-values are corrected for this (Holm, "
            f"over the {pairs} pairs that could be compared)."
        ],
        figures=[
            _figure("differences", metric, analysis.against_reference),
            *_likelihood_figure(analysis),
        ],
        folded_tables=[
            comparison_table(f"pairs-{m.name}", f"All pairs, {m.title}", analysis.comparisons[m.name])
            for m in analysis.measures
        ],
    )


def ablation_section(analysis: Analysis) -> Section | None:
    """Return the full method against its variants with one part removed.

    ``None`` if the reference is not the full method, or no variant ran.
    """
    if analysis.reference.family != FULL_METHOD:
        return None
    variants = {m.name for m in analysis.methods if m.family.startswith(f"{FULL_METHOD}-")}
    comparisons = [c for c in analysis.against_reference if c.b in variants]
    if not comparisons:
        return None
    return Section(
        id="ablation",
        title="Ablation",
        text=[
            "Each row removes one part from the full method (one at a time, not cumulative). The part helps "
            "if the difference is in favour of the full method and its interval excludes zero. All variants "
            "share one output instruction; the invalid rates in the main table show whether format plays a "
            "role."
        ],
        figures=[_figure("ablation", analysis.main, comparisons)],
    )


def comparison_table(name: str, title: str, comparisons: Sequence[Comparison]) -> Table:
    """Return one row for each comparison, with every test."""
    has_mcnemar = any(comparison.mcnemar for comparison in comparisons)
    columns = [
        *([key_column("a", "A", number=False)] if len({c.a for c in comparisons}) > 1 else []),
        key_column("b", "B", number=False),
        key_column("n", "n"),
        key_column("users", "Users"),
        interval_column("difference", "A minus B", difference=True),
        key_column("verdict", "Verdict", number=False),
        Column("p (Holm)", lambda row: p_value(row["p_holm"])),
    ]
    notes = [
        "p: randomisation test that swaps whole users. Users needed: to detect a difference of the observed "
        "size with 80 % power.",
    ]
    if has_mcnemar:
        columns += [
            Column("Only A / only B right", lambda row: f"{show(row['only_a'])} / {show(row['only_b'])}"),
            Column("McNemar p (Holm)", lambda row: p_value(row["mcnemar_holm"])),
        ]
        notes.append("McNemar's exact test treats queries as independent, so its p is a lower bound.")
    columns.append(Column("Users needed", lambda row: show(row["users_needed"])))
    return Table(name=name, title=title, rows=[_row(c) for c in comparisons], columns=columns, notes=notes)


def _likelihood_figure(analysis: Analysis) -> list[Figure]:
    """Return the reference's differences in log-likelihood, without methods that cannot be compared in it."""
    if not analysis.has_likelihood:
        return []
    comparisons = [comparison for comparison in analysis.against(LOG_LIKELIHOOD) if not comparison.refused]
    if not comparisons:
        return []
    return [_figure(f"differences-{LOG_LIKELIHOOD.name}", LOG_LIKELIHOOD, comparisons)]


def _figure(name: str, metric: Measure, comparisons: Sequence[Comparison]) -> Figure:
    """Return the chart of comparisons that all have the same A."""
    a = comparisons[0].a
    side = "right" if metric.better == "higher" else "left"
    return Figure(
        caption=f"{a} minus the method of the row; {side} of the line at zero favours {a}. Filled dot: "
        "the interval excludes zero. Hollow dot: undecided. No dot: the comparison is refused.",
        alt=f"Difference in {metric.title} between {a} and each other method; the table of numbers has the "
        "values.",
        svg=forest(
            name,
            [_forest_row(comparison) for comparison in comparisons],
            f"{metric.title}: {a} minus the other\n{side} of zero favours {a}",
            zero=True,
        ),
        numbers=comparison_table(name, f"{metric.title}: {a} (A) minus each other method (B)", comparisons),
        open=True,
    )


def _forest_row(comparison: Comparison) -> ForestRow:
    difference = comparison.difference
    return ForestRow.from_cells(
        comparison.b if difference else f"{comparison.b} (refused)",
        _row(comparison),
        "difference",
        marker="hollow" if difference is None or difference.verdict == "undecided" else "filled",
    )


def _row(comparison: Comparison) -> Row:
    difference, mcnemar, power = comparison.difference, comparison.mcnemar, comparison.power
    return {
        "metric": comparison.metric.name,
        "a": comparison.a,
        "b": comparison.b,
        "n": difference.interval.n if difference else None,
        "users": difference.interval.users if difference else None,
        **interval_cells("difference", difference.interval if difference else None),
        "verdict": comparison.verdict,
        "p": difference.p if difference else None,
        "p_holm": comparison.p_holm,
        "only_a": mcnemar.only_a if mcnemar else None,
        "only_b": mcnemar.only_b if mcnemar else None,
        "mcnemar_p": mcnemar.p if mcnemar else None,
        "mcnemar_holm": comparison.mcnemar_holm,
        "users_needed": power.users_needed if power else None,
    }
