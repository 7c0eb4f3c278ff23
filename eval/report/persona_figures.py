"""Personas section: word overlap between personas (paper, Fig. 5) and a two-dimensional map of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from eval.report.analysis import Analysis
from eval.report.charts import GREY, INK, draw
from eval.report.data import MethodRun
from eval.report.section import Figure, Section
from eval.report.table import Row, Table, key_column, percent, show
from program.text import counted

Embed = Callable[[Sequence[str]], Any]
"""Maps texts to vectors, shape ``(texts, width)``."""

_MAX_TICKS = 20
"""Users named on the axes of the overlap matrix; with more users, every second, third ... is named."""

_MIN_MAPPED = 3
"""Different personas that a map needs: two or fewer do not span a plane."""

_MAX_LABELS = 40
"""With more users than this, the points of the map have no labels."""

_TOP_WORDS = 4


def section(analysis: Analysis, embed: Embed | None = None) -> Section | None:
    """Return overlap matrix and map of one method's personas; ``None`` for fewer than two personas."""
    method = analysis.persona_method
    if method is None or len(method.personas) < 2:
        return None
    changed = sum(persona.initial != persona.final for persona in method.personas)
    figures = [overlap_figure(method), map_figure(method, embed)]
    return Section(
        id="personas",
        title="Personas",
        text=[
            f"Personas of {method.name}: {counted(len(method.personas), 'user')}, {changed} of them with a "
            "final text that differs from the initial one. A persona that only repeats the template cannot "
            "help; a persona unlike all others is not necessarily right."
        ],
        figures=[figure for figure in figures if figure],
    )


def jaccard(a: str, b: str) -> float:
    """Return the Jaccard similarity of two texts' sets of words, ignoring case; 1 if both are empty."""
    words_a, words_b = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(words_a & words_b) / len(words_a | words_b) if words_a | words_b else 1.0


def overlap_figure(method: MethodRun) -> Figure:
    """Return the matrix of word overlap between users; needs at least two personas."""
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
        caption="Each square is a pair of users: the darker, the more words their final personas share. "
        f"Mean over pairs: {show(final)} for the final personas, {show(initial)} for the initial ones, which "
        "share the template.",
        alt="Matrix of word overlap between the final personas of all users; the numbers have the values.",
        svg=_overlap_chart([persona.user for persona in personas], rows),
        numbers=Table(
            name="persona-jaccard",
            title=f"Jaccard similarity of personas, {method.name}",
            rows=rows,
            columns=[
                key_column("user_a", "User", number=False),
                key_column("user_b", "User", number=False),
                key_column("initial", "Initial personas"),
                key_column("final", "Final personas"),
            ],
        ),
    )


def _overlap_chart(users: Sequence[str], rows: Sequence[Row]) -> str:
    # The diagonal stays empty: it is always 1.0 and would compress the grey scale of all other squares.
    matrix = [[float("nan")] * len(users) for _ in users]
    for (a, b), row in zip(combinations(range(len(users)), 2), rows, strict=True):
        matrix[a][b] = matrix[b][a] = float(row["final"] or 0)
    step = 1 + (len(users) - 1) // _MAX_TICKS

    def paint(axes: Any) -> None:
        image = axes.imshow(matrix, cmap="Greys", interpolation="nearest")
        axes.plot(range(len(users)), range(len(users)), "x", color=GREY, linestyle="none")
        ticks = range(0, len(users), step)
        labels = [users[tick].removeprefix("user-") for tick in ticks]
        axes.set_xticks(ticks, labels, rotation=90)
        axes.set_yticks(ticks, labels)
        axes.set_xlabel("user")
        axes.set_ylabel("user")
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="shared words (Jaccard)")

    return draw("persona-jaccard", 5.4, 4.4, paint)


def map_figure(method: MethodRun, embed: Embed | None = None) -> Figure | None:
    """Return the map of a method's final personas; ``None`` if fewer than three of them differ.

    Args:
        method: A method with personas.
        embed: A sentence encoder; ``None`` for TF-IDF vectors.
    """
    personas = method.personas
    texts = [persona.final for persona in personas]
    if len(set(texts)) < _MIN_MAPPED:
        return None
    points, explained, top_words = project(texts, embed)
    rows: list[Row] = [
        {"user": persona.user, "x": x, "y": y, "words": ", ".join(words)}
        for persona, (x, y), words in zip(personas, points, top_words, strict=True)
    ]
    vectors = "TF-IDF vector" if embed is None else "sentence embedding"
    return Figure(
        caption=f"Each point is a user's final persona: its {vectors}, projected on the first two principal "
        f"components, which hold {percent(explained)} of the variance. Close points share characteristic "
        "words (listed with the numbers), or differ in components that the map does not show.",
        alt="Map of the final personas of all users in two dimensions; the numbers have the coordinates.",
        svg=_map_chart(rows),
        numbers=Table(
            name="persona-map",
            title=f"Map of personas, {method.name}",
            rows=rows,
            columns=[
                key_column("user", "User", number=False),
                key_column("x", "x"),
                key_column("y", "y"),
                key_column("words", "Top TF-IDF words", number=False),
            ],
        ),
    )


def project(
    texts: Sequence[str], embed: Embed | None = None
) -> tuple[list[tuple[float, float]], float, list[list[str]]]:
    """Return each text's point, the explained share of variance, and each text's top TF-IDF words.

    Deterministic: full SVD, signs fixed by scikit-learn, coordinates rounded; equal weights are sorted by
    word.
    """
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True)
    weights = vectorizer.fit_transform(texts).toarray()
    words = vectorizer.get_feature_names_out()
    pca = PCA(n_components=2, svd_solver="full")
    # Adding zero turns the rounded -0.0 into 0.0.
    coordinates = pca.fit_transform(weights if embed is None else embed(texts)).round(6) + 0.0
    top_words = [
        [words[i] for i in sorted(range(len(words)), key=lambda i: (-row[i], words[i]))[:_TOP_WORDS]]
        for row in weights.round(9).tolist()
    ]
    points = [(float(x), float(y)) for x, y in coordinates]
    return points, float(pca.explained_variance_ratio_.sum()), top_words


def _map_chart(rows: Sequence[Row]) -> str:
    def paint(axes: Any) -> None:
        axes.plot([row["x"] for row in rows], [row["y"] for row in rows], "o", color=INK, markersize=5)
        if len(rows) <= _MAX_LABELS:
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
