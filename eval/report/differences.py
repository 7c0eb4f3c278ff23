"""Whether methods differ: every pair on the same queries, and the reference against each other method."""

from __future__ import annotations

from collections.abc import Sequence

from eval.report.analysis import Analysis
from eval.report.charts import Bar, Look, forest
from eval.report.compare import Comparison
from eval.report.section import Figure, Section
from eval.report.table import (
    Column,
    Row,
    Scalar,
    Table,
    heading,
    interval_cells,
    interval_column,
    plain,
    show,
)


def section(analysis: Analysis) -> Section | None:
    """Return the paired differences; ``None`` where one method ran alone."""
    if not analysis.against_reference:
        return None
    metric, name = analysis.main, analysis.reference.name
    compared = sum(not comparison.refused for comparison in analysis.comparisons[metric.name])
    return Section(
        id="differences",
        title="Differences, query by query",
        text=[
            f"{name} minus each other method in {heading(metric)}, on the queries that both answered. "
            "A method is called better only where the 95 % interval over users excludes zero. With many "
            "comparisons some intervals exclude zero by chance: the corrected p-values (Holm, over all "
            f"{compared} pairs that could be compared) say how much is left."
        ],
        figures=[difference_figure("differences", analysis, analysis.against_reference)],
        more=[
            comparison_table(f"pairs-{m.name}", f"Every pair, {m.title}", analysis.comparisons[m.name])
            for m in analysis.metrics
        ],
    )


def difference_figure(name: str, analysis: Analysis, comparisons: Sequence[Comparison]) -> Figure:
    """Return the chart of A minus B, where A is the same method in all."""
    metric, a = analysis.main, comparisons[0].a
    bars = [Bar.of(_label(c), _row(c), "difference", _look(c)) for c in comparisons]
    side = "right" if metric.better == "higher" else "left"
    return Figure(
        caption=f"{a} minus the method named at the row; {side} of the line at zero favours {a}. Filled dot: "
        "the interval excludes zero. Hollow dot: undecided. No dot: the comparison is refused.",
        alt=f"Difference in {metric.title} between {a} and each other method, as in the table of numbers.",
        svg=forest(name, bars, f"{metric.title}: {a} minus the other\n{side} of zero favours {a}", zero=True),
        numbers=comparison_table(name, f"{metric.title}: {a} (A) minus each other method (B)", comparisons),
        open=True,
    )


def comparison_table(name: str, title: str, comparisons: Sequence[Comparison]) -> Table:
    """Return one row for each comparison, with everything that was tested."""
    exact = any(comparison.mcnemar for comparison in comparisons)
    columns = [
        *([plain("a", "A", number=False)] if len({comparison.a for comparison in comparisons}) > 1 else []),
        plain("b", "B", number=False),
        plain("n", "n"),
        plain("users", "Users"),
        interval_column("difference", "A minus B", difference=True),
        plain("verdict", "Verdict", number=False),
        Column("p (Holm)", lambda row: p_text(row["p_holm"])),
        *(
            [
                Column("Only A / only B right", lambda row: f"{show(row['only_a'])} / {show(row['only_b'])}"),
                Column("McNemar p (Holm)", lambda row: p_text(row["mcnemar_holm"])),
            ]
            if exact
            else []
        ),
        Column("Users needed", lambda row: show(row["users_needed"])),
    ]
    notes = [
        "p: randomisation test that swaps whole users. Users needed: to find a difference of the size "
        "seen, 80 % of the time.",
    ]
    if exact:
        notes.append("McNemar's exact test takes queries as independent, so its p is a lower bound.")
    return Table(name=name, title=title, rows=[_row(c) for c in comparisons], columns=columns, notes=notes)


def p_text(p: Scalar) -> str:
    """Return a p-value, never as zero."""
    if not isinstance(p, float):
        return show(None)
    return "< 0.001" if p < 0.001 else show(p)


def _label(comparison: Comparison) -> str:
    return comparison.b if comparison.difference else f"{comparison.b} (refused)"


def _look(comparison: Comparison) -> Look:
    found = comparison.difference
    return "hollow" if found is None or found.verdict == "undecided" else "filled"


def _row(comparison: Comparison) -> Row:
    found, exact, needs = comparison.difference, comparison.mcnemar, comparison.power
    return {
        "metric": comparison.metric.name,
        "a": comparison.a,
        "b": comparison.b,
        "n": found.interval.n if found else None,
        "users": found.interval.users if found else None,
        **interval_cells("difference", found.interval if found else None),
        "verdict": comparison.verdict,
        "p": found.p if found else None,
        "p_holm": comparison.p_holm,
        "only_a": exact.only_a if exact else None,
        "only_b": exact.only_b if exact else None,
        "mcnemar_p": exact.p if exact else None,
        "mcnemar_holm": comparison.mcnemar_holm,
        "users_needed": needs.needed if needs else None,
    }
