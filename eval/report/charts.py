"""How every figure is drawn: no screen, never colour alone, and the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.report.table import Row, Scalar

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Shapes that stay apart in black and white."""

LINES = ("-", "--", "-.", ":")
"""Line styles that go with the markers, in turn."""

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
    """Return one chart as SVG.

    Args:
        name: Seeds the ids inside the SVG, so that they do not change from run to run.
        width: In inches.
        height: In inches.
        paint: Draws on the matplotlib axes it is given.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # A user's own matplotlibrc must not change the page.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        text = io.StringIO()
        unstamped = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(text, metadata=unstamped)
    return text.getvalue()


Look = Literal["filled", "hollow"]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row of the chart; ``value`` is ``None`` where there is none, so are ``low`` and ``high``."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    look: Look = "filled"

    @classmethod
    def of(cls, label: str, row: Row, name: str, look: Look) -> Bar:
        """Make a row of the chart from the cells of `eval.report.table.interval_cells`."""
        value, low, high = (_number(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
        return cls(label=label, value=value, low=low, high=high, look=look)


def forest(name: str, bars: Sequence[Bar], axis: str, *, zero: bool = False) -> str:
    """Return the chart as SVG, rows from the top down.

    Args:
        name: As in `draw`.
        bars: At least one.
        axis: Label of the axis; a second line says which side is good, where that is not plain.
        zero: Whether the line at zero matters, as it does for differences.
    """

    def paint(axes: Any) -> None:
        axes.grid(visible=True, axis="x")
        if zero:
            axes.axvline(0.0, color=INK, linewidth=1.2)
        for place, bar in enumerate(bars):
            if bar.value is None:
                continue
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1.6)
                for end in (bar.low, bar.high):
                    axes.plot([end, end], [place - 0.14, place + 0.14], color=INK, linewidth=1.6)
            inside = "white" if bar.look == "hollow" else INK
            axes.plot(
                bar.value, place, "o", markersize=7, markerfacecolor=inside, markeredgecolor=INK, zorder=3
            )
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(GREY)
        axes.set_xlabel(axis)

    return draw(name, 6.0, 0.9 + 0.3 * len(bars), paint)


def _number(cell: Scalar) -> float | None:
    return float(cell) if isinstance(cell, int | float) else None
