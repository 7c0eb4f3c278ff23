"""Draws charts as SVG: grey only, and byte-identical for the same input."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.report.table import Row, Scalar

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Marker shapes that differ in black and white."""

LINES = ("-", "--", "-.", ":")
"""Line styles, used in turn with the markers."""

INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#d9d9d9"

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same outlines on every machine
    "font.size": 9.5,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


def draw(name: str, width: float, height: float, paint: Callable[[Any], None]) -> str:
    """Draw one chart and return it as SVG.

    Args:
        name: Salt of the ids inside the SVG, which keeps them the same in every run.
        width: In inches.
        height: In inches.
        paint: Draws on the matplotlib axes that it receives.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # A user's own matplotlibrc must not change the report.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        text = io.StringIO()
        unstamped = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(text, metadata=unstamped)
    return text.getvalue()


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One row of a forest chart; a row without a ``value`` has a label only."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    marker: Literal["filled", "hollow"] = "filled"

    @classmethod
    def from_cells(cls, label: str, row: Row, name: str, *, marker: Literal["filled", "hollow"]) -> ForestRow:
        """Read the cells that `eval.report.table.interval_cells` made under ``name``."""
        value, low, high = (_float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
        return cls(label=label, value=value, low=low, high=high, marker=marker)


def forest(name: str, rows: Sequence[ForestRow], axis: str, *, zero: bool = False) -> str:
    """Draw values with their intervals, one row each from the top down, and return the SVG.

    Args:
        name: As for `draw`.
        rows: At least one.
        axis: Label of the axis; a second line may say which side is better.
        zero: Whether to draw a line at zero, for differences.
    """

    def paint(axes: Any) -> None:
        axes.grid(visible=True, axis="x")
        if zero:
            axes.axvline(0.0, color=INK, linewidth=1.2)
        for y, row in enumerate(rows):
            if row.value is None:
                continue
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=INK, linewidth=1.6)
                for end in (row.low, row.high):
                    axes.plot([end, end], [y - 0.14, y + 0.14], color=INK, linewidth=1.6)
            face = "white" if row.marker == "hollow" else INK
            axes.plot(row.value, y, "o", markersize=7, markerfacecolor=face, markeredgecolor=INK, zorder=3)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(GREY)
        axes.set_xlabel(axis)

    return draw(name, 6.0, 0.9 + 0.3 * len(rows), paint)


def _float(cell: Scalar) -> float | None:
    return float(cell) if isinstance(cell, int | float) else None
