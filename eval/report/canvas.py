"""How every figure is drawn: no screen, never colour alone, and the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

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
