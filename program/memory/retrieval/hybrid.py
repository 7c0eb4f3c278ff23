"""Words and meaning together: reciprocal rank fusion of BM25 and dense retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from program.memory.base import Retriever


@dataclass
class Hybrid:
    """A `Retriever` that adds ``1 / (k + rank)`` over two retrievers.

    Equal scores share the better rank. A text without any of the query's words gets nothing from
    the lexical side, so where no text has any, the dense side decides alone.

    Source: Cormack, Clarke and Büttcher, SIGIR 2009, section 2, and their k = 60.

    Attributes:
        lexical: Scores zero where no word is shared.
        dense: Scores every text.
        k: How little the first ranks stand out, in ranks.
    """

    lexical: Retriever
    dense: Retriever
    k: int = 60

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts to both."""
        self.lexical.extend(texts)
        self.dense.extend(texts)

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Return the fused score of each text."""
        lexical = self.lexical.scores(query)
        found = np.where(lexical == 0, 0.0, self._by_rank(lexical))
        return found + self._by_rank(self.dense.scores(query))

    def _by_rank(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        better = np.searchsorted(np.sort(-scores), -scores, side="left")
        return 1.0 / (self.k + 1 + better)
