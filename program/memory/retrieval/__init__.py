"""Retrievers by name: they rank a user's interactions for a query."""

from __future__ import annotations

from program.errors import ConfigError
from program.memory.base import Retriever
from program.memory.retrieval.bm25 import Bm25
from program.memory.retrieval.dense import Dense
from program.memory.retrieval.hybrid import Hybrid
from program.memory.retrieval.recency import Recency

__all__ = ["Bm25", "Dense", "Hybrid", "Recency", "make_retriever"]


def make_retriever(name: str) -> Retriever:
    """Return a new, empty retriever.

    Args:
        name: ``bm25``, ``dense``, ``hybrid`` or ``recency``; ``dense:FOLDER`` and ``hybrid:FOLDER``
            use the sentence encoder in that folder instead of the packaged one.

    Raises:
        ConfigError: The name is unknown.
        ModelSetupError: The sentence encoder cannot be loaded.

    Example:
        >>> retriever = make_retriever("bm25")
        >>> retriever.extend(["red apple", "blue sky", "green leaf"])
        >>> int(retriever.scores("blue whale").argmax())
        1
    """
    kind, _, folder = name.partition(":")
    if kind == "dense":
        return Dense.from_folder(folder or None)
    if kind == "hybrid":
        return Hybrid(Bm25(), Dense.from_folder(folder or None))
    if name == "bm25":
        return Bm25()
    if name == "recency":
        return Recency()
    raise ConfigError(
        f"unknown `retrieval` {name!r}; use bm25, dense, hybrid, recency, dense:FOLDER or hybrid:FOLDER"
    )
