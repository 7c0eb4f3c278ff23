"""How numbers and verdicts are put into words, the same in every section."""

from __future__ import annotations

from collections.abc import Sequence

from eval.metrics import Metric
from eval.report.compare import Comparison
from eval.report.table import Column, Row, Scalar, percent, show, signed
from eval.statistics import Interval

_LEVEL = 0.05


def heading(metric: Metric) -> str:
    """Return a metric's column heading with its unit and direction: ``MAE (stars, lower is better)``."""
    unit = "" if metric.unit == "share" else f"{metric.unit}, "
    return f"{metric.title} ({unit}{metric.better} is better)"


def interval_cells(name: str, found: Interval | None) -> dict[str, Scalar]:
    """Return a value and its interval as the cells ``name``, ``name_low`` and ``name_high``."""
    return {
        name: found.value if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
    }


def interval_column(name: str, title: str, *, difference: bool = False) -> Column:
    """Return a column that shows such cells as ``value [low, high]``; a difference with its sign."""

    def text(row: Row) -> str:
        value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
        if value is None:
            return show(None)
        brackets = "no interval" if low is None else f"{show(low)}, {show(high)}"
        shown = signed(float(value)) if difference else show(value)
        return f"{shown} [{brackets}]"

    return Column(title, text)


def invalid_column() -> Column:
    """Return a column that shows the cell ``invalid`` as a share of the answers."""

    def text(row: Row) -> str:
        invalid = row["invalid"]
        return percent(invalid, 1) if isinstance(invalid, float) else show(None)

    return Column("Invalid", text)


def findings(comparisons: Sequence[Comparison], metric: Metric) -> list[str]:
    """Return what may be said of the reference, A in every comparison, in one sentence a verdict."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "undecided": [], "refused": []}
    for comparison in comparisons:
        found = comparison.difference
        groups[found.verdict if found else "refused"].append(comparison.b)
    if not comparisons:
        return []
    name = comparisons[0].a
    said = {
        "better": f"{metric.title}: {name} is better than {{}}.",
        "worse": f"{metric.title}: {name} is worse than {{}}.",
        "undecided": f"{metric.title}: {name} against {{}} is undecided: the interval holds zero, or there "
        "are too few users.",
        "refused": f"{metric.title}: {name} is not compared with {{}}: the table of differences says why.",
    }
    weak = [c.b for c in comparisons if c.p_holm and c.p_holm >= _LEVEL and c.verdict.endswith("better")]
    lines = [said[verdict].format(_list(names)) for verdict, names in groups.items() if names]
    if weak:
        lines.append(
            f"With Holm's correction over all pairs of the run, the difference from {_list(weak)} could "
            f"still be chance (p of {_LEVEL} or more)."
        )
    return lines


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
