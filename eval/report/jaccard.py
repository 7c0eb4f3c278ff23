"""How alike the learned personas are, word by word (paper, Fig. 5: Jaccard similarity matrix)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from eval.report.charts import GREY, draw
from eval.report.data import MethodRun
from eval.report.section import Figure
from eval.report.table import Row, Table, plain, show

_NUMBERED = 20
"""Up to this many users the chart names every user; beyond, evenly spaced ones."""


def jaccard(a: str, b: str) -> float:
    """Return the share of different words that both texts have, in [0, 1]; case does not matter."""
    words_a, words_b = words(a), words(b)
    return len(words_a & words_b) / len(words_a | words_b) if words_a | words_b else 1.0


def words(text: str) -> set[str]:
    """Return the different words of a text, in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def figure(method: MethodRun) -> Figure:
    """Return the matrix of all pairs of users; the method has personas of two users or more."""
    personas = method.personas
    rows: list[Row] = [
        {
            "user_a": a.user,
            "user_b": b.user,
            "initial": jaccard(a.initial, b.initial),
            "final": jaccard(a.final, b.final),
        }
        for a, b in combinations(personas, 2)
    ]
    initial, final = (fmean(float(row[key] or 0) for row in rows) for key in ("initial", "final"))
    return Figure(
        caption="Each square is a pair of users; the darker, the more words their final personas share. "
        f"Mean over pairs: {show(final)} for the final personas, {show(initial)} for the initial ones, whose "
        "common part is the template.",
        alt="Matrix of word overlap between the final personas of all users, as in the numbers.",
        svg=_chart([persona.user for persona in personas], rows),
        numbers=Table(
            name="persona-jaccard",
            title=f"Jaccard similarity of personas, {method.name}",
            rows=rows,
            columns=[
                plain("user_a", "User", number=False),
                plain("user_b", "User", number=False),
                plain("initial", "Initial personas"),
                plain("final", "Final personas"),
            ],
        ),
    )


def _chart(users: Sequence[str], rows: Sequence[Row]) -> str:
    # The diagonal stays empty: it is 1.0 for everybody and would wash out all differences.
    matrix = [[float("nan")] * len(users) for _ in users]
    for (a, b), row in zip(combinations(range(len(users)), 2), rows, strict=True):
        matrix[a][b] = matrix[b][a] = float(row["final"] or 0)
    step = 1 + (len(users) - 1) // _NUMBERED

    def paint(axes: Any) -> None:
        image = axes.imshow(matrix, cmap="Greys", interpolation="nearest")
        axes.plot(range(len(users)), range(len(users)), "x", color=GREY, linestyle="none")
        ticks = range(0, len(users), step)
        shown = [users[tick].removeprefix("user-") for tick in ticks]
        axes.set_xticks(ticks, shown, rotation=90)
        axes.set_yticks(ticks, shown)
        axes.set_xlabel("user")
        axes.set_ylabel("user")
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="shared words (Jaccard)")

    return draw("persona-jaccard", 5.4, 4.4, paint)
