"""A table: one set of numbers, shown as text for people and kept in full for machines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eval.metrics import Metric
from eval.statistics import Interval

Scalar = str | int | float | None
Row = Mapping[str, Scalar]

DASH, MINUS = "\u2013", "\u2212"

_MARKDOWN = str.maketrans({"|": r"\|", "\n": " ", "`": "'"})
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: "\\" + character for character in "&%$#_{}"},
        "±": r"$\pm$",
        MINUS: "$-$",
        DASH: "--",
        "≥": r"$\geq$",
        "<": "$<$",
        "\n": " ",
    }
)


@dataclass(frozen=True)
class Column:
    """One column as people see it.

    Attributes:
        title: Heading, with the unit or the direction where there is one.
        show: The cell's text, given the row.
        number: Whether cells are aligned as numbers.
    """

    title: str
    show: Callable[[Row], str]
    number: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of numbers and how to show them.

    Attributes:
        name: File name without suffix.
        title: One line above the table.
        rows: The numbers; every row has the keys of the first, which head the CSV file. ``None``
            is an empty cell.
        columns: What is shown, which may join several keys or leave some out.
        notes: Lines below the table.
    """

    name: str
    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    notes: Sequence[str] = ()

    @property
    def cells(self) -> list[list[str]]:
        """The shown text, by row."""
        return [[column.show(row) for column in self.columns] for row in self.rows]


def plain(key: str, title: str, *, number: bool = True, digits: int = 3) -> Column:
    """Return a column that shows one key."""
    return Column(title, lambda row: show(row[key], digits), number)


def show(value: Scalar, digits: int = 3) -> str:
    """Return a cell's text: floats with ``digits`` decimals, a dash where there is no value."""
    if value is None:
        return DASH
    if isinstance(value, float):
        # Adding zero turns the rounded -0.0 into 0.0.
        return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", MINUS)
    return f"{value:,}" if isinstance(value, int) else value


def signed(value: float) -> str:
    """Return a difference's text, with its sign."""
    return f"{'+' if value > 0 else ''}{show(value)}"


def percent(value: float, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.{digits}f} %"


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


def to_csv(table: Table) -> str:
    """Return the numbers as CSV with a header; floats with six significant digits."""
    text = io.StringIO()
    fields = list(table.rows[0]) if table.rows else []
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """Return the shown table as Markdown, heading and notes included."""
    lines = [
        _markdown_row([column.title for column in table.columns]),
        "|" + "|".join(" ---: " if column.number else " --- " for column in table.columns) + "|",
        *(_markdown_row(cells) for cells in table.cells),
    ]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"**{table.title}**", "", *lines, *(["", *notes] if notes else []), ""])


def to_latex(table: Table) -> str:
    r"""Return the shown table as a LaTeX ``table``; the document needs ``\usepackage{booktabs}``."""
    align = "".join("r" if column.number else "l" for column in table.columns)
    lines = [
        r"\begin{table}",
        rf"\caption{{{_latex(' '.join([table.title + '.', *table.notes]))}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _latex_row([column.title for column in table.columns]),
        r"\midrule",
        *(_latex_row(cells) for cells in table.cells),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.translate(_MARKDOWN) for cell in cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex(cell) for cell in cells) + r" \\"


def _latex(text: str) -> str:
    return text.translate(_LATEX)
