"""Hybrid retrieval: reciprocal rank fusion of BM25 and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from program.memory.base import Retriever


@dataclass
class Hybrid:
    """A `Retriever` that sums ``1 / (k + rank)`` over two retrievers, the dense side times ``weight``.

    Ties share the better rank. The lexical side adds nothing for a text without a word of the query,
    so the dense side decides alone if no text has one.

    Source: Cormack, Clarke and Büttcher, SIGIR 2009, section 2, and their k = 60.

    Attributes:
        lexical: Scores a text zero if it has no word of the query.
        dense: Scores every text.
        k: Damping of the first ranks, in ranks; larger is flatter.
        weight: What the dense side counts against the lexical side.
    """

    lexical: Retriever
    dense: Retriever
    k: int = 60
    weight: float = 1.0

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts to both retrievers."""
        self.lexical.extend(texts)
        self.dense.extend(texts)

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Return the fused score of each text."""
        lexical = self.lexical.scores(query)
        words = np.where(lexical == 0, 0.0, self._reciprocal_ranks(lexical))
        return words + self.weight * self._reciprocal_ranks(self.dense.scores(query))

    def _reciprocal_ranks(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        ranks = 1 + np.searchsorted(np.sort(-scores), -scores, side="left")
        return 1.0 / (self.k + ranks)
