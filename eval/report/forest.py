"""The chart of values with intervals, one row each: for scores, differences and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.report.canvas import GREY, INK, draw
from eval.report.table import Row, Scalar

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
        """Make a row of the chart from the cells of `eval.report.words.interval_cells`."""
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
