"""Tables, and how they are written as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eval.metrics import Measure
from eval.report.escape import DASH, MINUS, escape_csv, escape_latex, escape_markdown
from eval.statistics import Interval

Scalar = str | int | float | None
Row = Mapping[str, Scalar]


@dataclass(frozen=True)
class Column:
    """One column of the displayed table.

    Attributes:
        title: Heading, with the unit and the direction if the column has them.
        show: Returns the cell's text for a row.
        number: Whether the cells are right-aligned.
    """

    title: str
    show: Callable[[Row], str]
    number: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values, and the columns that display them.

    CSV holds the rows; Markdown, LaTeX and the page hold the columns.

    Attributes:
        name: File name without suffix.
        title: One line above the table.
        rows: All rows have the keys of the first, which become the CSV header. ``None`` is an empty cell.
        columns: A column may join several keys; keys without a column are in the CSV only.
        notes: Lines below the table.
    """

    name: str
    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    notes: Sequence[str] = ()

    @property
    def cells(self) -> list[list[str]]:
        """The displayed text, by row."""
        return [[column.show(row) for column in self.columns] for row in self.rows]


def key_column(key: str, title: str, *, number: bool = True, digits: int = 3) -> Column:
    """Return a column that shows the value of one key."""
    return Column(title, lambda row: show(row[key], digits), number)


def show(value: Scalar, digits: int = 3) -> str:
    """Return a cell's text: floats with ``digits`` decimals, a dash for ``None``."""
    if value is None:
        return DASH
    if isinstance(value, float):
        # Adding zero turns the rounded -0.0 into 0.0.
        return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", MINUS)
    return f"{value:,}" if isinstance(value, int) else value


def signed(value: float) -> str:
    """Return a difference with its sign and three decimals."""
    return f"{'+' if value > 0 else ''}{show(value)}"


def percent(value: float, digits: int = 0) -> str:
    """Return a share in [0, 1] as a percentage."""
    return f"{100 * value:.{digits}f} %"


def p_value(p: Scalar) -> str:
    """Return a p-value with three decimals, ``< 0.001`` below that."""
    if not isinstance(p, float):
        return show(None)
    return "< 0.001" if p < 0.001 else show(p)


def heading(metric: Measure) -> str:
    """Return a measure's column heading with its unit and direction: ``MAE (stars, lower is better)``."""
    unit = "" if metric.unit == "share" else f"{metric.unit}, "
    return f"{metric.title} ({unit}{metric.better} is better)"


def interval_cells(name: str, interval: Interval | None) -> dict[str, Scalar]:
    """Return a value and its interval as the cells ``name``, ``name_low`` and ``name_high``."""
    return {
        name: interval.value if interval else None,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
    }


def interval_column(name: str, title: str, *, difference: bool = False) -> Column:
    """Return a column that shows `interval_cells` as ``value [low, high]``, a difference with its sign."""

    def text(row: Row) -> str:
        value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
        if value is None:
            return show(None)
        brackets = "no interval" if low is None else f"{show(low)}, {show(high)}"
        number = signed(float(value)) if difference else show(value)
        return f"{number} [{brackets}]"

    return Column(title, text)


def invalid_column() -> Column:
    """Return a column that shows the cell ``invalid`` as a percentage of the answers."""

    def text(row: Row) -> str:
        invalid = row["invalid"]
        return percent(invalid, 1) if isinstance(invalid, float) else show(None)

    return Column("Invalid", text)


def to_csv(table: Table) -> str:
    """Return the rows as CSV with a header; floats with six significant digits, no text as a formula."""
    text = io.StringIO()
    fields = list(table.rows[0]) if table.rows else []
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        writer.writerow({key: _csv_cell(value) for key, value in row.items()})
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """Return the displayed table as Markdown, with title and notes."""
    lines = [
        _markdown_row([column.title for column in table.columns]),
        "|" + "|".join(" ---: " if column.number else " --- " for column in table.columns) + "|",
        *(_markdown_row(cells) for cells in table.cells),
    ]
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    return "\n".join(
        [f"**{escape_markdown(table.title)}**", "", *lines, *(["", *notes] if notes else []), ""]
    )


def to_latex(table: Table) -> str:
    r"""Return the displayed table as a LaTeX ``table``; the document needs ``\usepackage{booktabs}``."""
    align = "".join("r" if column.number else "l" for column in table.columns)
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(' '.join([table.title + '.', *table.notes]))}}}",
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


def _csv_cell(value: Scalar) -> Scalar:
    if isinstance(value, str):
        return escape_csv(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(map(escape_latex, cells))
    # After a line's end, LaTeX would read a bracket or star as that line end's argument.
    return ("{}" if row.startswith(("[", "*")) else "") + row + r" \\"
