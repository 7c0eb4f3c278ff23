"""Retrievers by name: they rank a user's interactions for a query."""

from __future__ import annotations

from program.errors import ConfigError
from program.memory.base import Retriever
from program.memory.retrieval.bm25 import Bm25
from program.memory.retrieval.dense import Dense
from program.memory.retrieval.hybrid import Hybrid
from program.memory.retrieval.lamp_bm25 import LampBm25
from program.memory.retrieval.recency import Recency
from program.memory.retrieval.static_encoder import StaticEncoder

__all__ = ["Bm25", "Dense", "Hybrid", "LampBm25", "Recency", "make_retriever"]


def make_retriever(name: str) -> Retriever:
    """Return a new, empty retriever.

    Args:
        name: One of

            - ``bm25``: words in any script, without case and punctuation;
            - ``static``: embeddings without a network, one vector for each token; mostly English;
            - ``hybrid``, the default everywhere: ``bm25`` and ``static`` together;
            - ``recency``: the newest first;
            - ``dense``: sentence embeddings of the packaged MiniLM on torch; mostly English.
              ``dense:FOLDER`` uses the encoder in that folder;
            - ``hybrid:dense`` or ``hybrid:FOLDER``: ``bm25`` and the sentence encoder together;
            - ``lamp-bm25``, ``lamp-hybrid`` or ``lamp-hybrid:FOLDER``: LaMP's BM25, alone or with the
              sentence encoder. On LaMP's tasks, methods of `eval` read ``bm25`` as ``lamp-bm25`` (see
              `eval.methods.retrieval.make_memory`).

    Raises:
        ConfigError: The name is unknown.
        ModelSetupError: The encoder cannot be loaded.

    Example:
        >>> retriever = make_retriever("bm25")
        >>> retriever.extend(["Red apple!", "blue sky", "緑茶を飲む"])
        >>> [int(retriever.scores(query).argmax()) for query in ("apple", "緑茶")]
        [0, 2]
    """
    kind, _, folder = name.partition(":")
    if name == "hybrid":
        # Measured: with equal weights it finds less than `static` alone (`benchmarks/bench_retrieval.py`).
        return Hybrid(Bm25(), Dense(StaticEncoder()), weight=4)
    if name == "static":
        return Dense(StaticEncoder())
    if kind == "dense":
        return Dense.from_folder(folder or None)
    if kind == "hybrid":
        return Hybrid(Bm25(), Dense.from_folder(None if folder in ("", "dense") else folder))
    if kind == "lamp-hybrid":
        return Hybrid(LampBm25(), Dense.from_folder(folder or None))
    if name == "bm25":
        return Bm25()
    if name == "lamp-bm25":
        return LampBm25()
    if name == "recency":
        return Recency()
    raise ConfigError(
        f"unknown `retrieval` {name!r}; use hybrid, bm25, static, recency, dense, hybrid:dense, "
        "dense:FOLDER or hybrid:FOLDER"
    )
