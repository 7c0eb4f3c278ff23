"""Where the personas lie: texts as vectors, flattened to two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eval.report.charts import INK, draw
from eval.report.data import MethodRun
from eval.report.section import Figure
from eval.report.table import Row, Table, percent, plain

Embed = Callable[[Sequence[str]], Any]
"""Texts to vectors, shape ``(texts, width)``."""

_LEAST = 3
_NAMED = 40
"""Up to this many users every point carries its user's number."""

_WORDS = 4
_VECTORS = ("TF-IDF of its words", "the sentence encoder's embedding")


def figure(method: MethodRun, embed: Embed | None = None) -> Figure | None:
    """Return the map; ``None`` where fewer than three personas differ, which span no plane.

    Args:
        method: Whose personas.
        embed: A sentence encoder; without one texts are TF-IDF vectors of their words.
    """
    personas = method.personas
    if len({persona.final for persona in personas}) < _LEAST:
        return None
    points, explained, telling = project([persona.final for persona in personas], embed)
    rows: list[Row] = [
        {"user": persona.user, "x": x, "y": y, "words": ", ".join(found)}
        for persona, (x, y), found in zip(personas, points, telling, strict=True)
    ]
    return Figure(
        caption=f"Each point is a user's final persona: {_VECTORS[embed is not None]}, then the first two "
        f"principal components, which hold {percent(explained)} of the variance. Near points share telling "
        "words (listed with the numbers) or differ in what the map does not show.",
        alt="Map of the final personas of all users in two dimensions, as in the numbers.",
        svg=_chart(rows),
        numbers=Table(
            name="persona-map",
            title=f"Map of personas, {method.name}",
            rows=rows,
            columns=[
                plain("user", "User", number=False),
                plain("x", "x"),
                plain("y", "y"),
                plain("words", "Most telling words", number=False),
            ],
        ),
    )


def project(
    texts: Sequence[str], embed: Embed | None = None
) -> tuple[list[tuple[float, float]], float, list[list[str]]]:
    """Return each text's place, the share of variance shown, and each text's most telling words.

    Deterministic: a full decomposition, signs fixed by scikit-learn, places rounded.
    """
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True)
    weights = vectorizer.fit_transform(texts).toarray()
    names = vectorizer.get_feature_names_out()
    model = PCA(n_components=2, svd_solver="full")
    vectors = weights if embed is None else embed(texts)
    places = model.fit_transform(vectors).round(6) + 0.0
    telling = [
        [names[place] for place in sorted(range(len(names)), key=lambda i: (-row[i], names[i]))[:_WORDS]]
        for row in weights.round(9).tolist()
    ]
    points = [(float(x), float(y)) for x, y in places]
    return points, float(model.explained_variance_ratio_.sum()), telling


def _chart(rows: Sequence[Row]) -> str:
    def paint(axes: Any) -> None:
        axes.plot([row["x"] for row in rows], [row["y"] for row in rows], "o", color=INK, markersize=5)
        if len(rows) <= _NAMED:
            for row in rows:
                axes.annotate(
                    str(row["user"]).removeprefix("user-"),
                    (row["x"], row["y"]),
                    textcoords="offset points",
                    xytext=(5, 4),
                )
        axes.margins(0.1)
        axes.set_xlabel("first component")
        axes.set_ylabel("second component")

    return draw("persona-map", 6.0, 4.2, paint)
