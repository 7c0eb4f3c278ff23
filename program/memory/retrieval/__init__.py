"""Retrievers by name: they rank a user's interactions for a query."""

from __future__ import annotations

from program.errors import ConfigError
from program.memory.base import Retriever
from program.memory.retrieval.bm25 import Bm25
from program.memory.retrieval.dense import Dense
from program.memory.retrieval.hybrid import Hybrid
from program.memory.retrieval.lamp_bm25 import LampBm25
from program.memory.retrieval.recency import Recency

__all__ = ["Bm25", "Dense", "Hybrid", "LampBm25", "Recency", "make_retriever"]


def make_retriever(name: str) -> Retriever:
    """Return a new, empty retriever.

    Args:
        name: One of

            - ``bm25``: words in any script, without case and punctuation;
            - ``dense``: sentence embeddings of the packaged encoder, which knows mostly English;
              ``dense:FOLDER`` uses the encoder in that folder;
            - ``hybrid`` or ``hybrid:FOLDER``: ``bm25`` and ``dense`` together;
            - ``recency``: the newest first;
            - ``lamp-bm25``, ``lamp-hybrid`` or ``lamp-hybrid:FOLDER``: with LaMP's BM25. Methods of
              `eval` use these on LaMP's tasks (see `eval.methods.retrieval.make_memory`).

    Raises:
        ConfigError: The name is unknown.
        ModelSetupError: The sentence encoder cannot be loaded.

    Example:
        >>> retriever = make_retriever("bm25")
        >>> retriever.extend(["Red apple!", "blue sky", "緑茶を飲む"])
        >>> [int(retriever.scores(query).argmax()) for query in ("apple", "緑茶")]
        [0, 2]
    """
    kind, _, folder = name.partition(":")
    if kind == "dense":
        return Dense.from_folder(folder or None)
    if kind in ("hybrid", "lamp-hybrid"):
        lexical = Bm25() if kind == "hybrid" else LampBm25()
        return Hybrid(lexical, Dense.from_folder(folder or None))
    if name == "bm25":
        return Bm25()
    if name == "lamp-bm25":
        return LampBm25()
    if name == "recency":
        return Recency()
    raise ConfigError(
        f"unknown `retrieval` {name!r}; use bm25, dense, hybrid, recency, dense:FOLDER or hybrid:FOLDER"
    )
