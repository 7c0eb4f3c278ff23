"""BM25 as in LaMP: rank-bm25's `BM25Okapi` over words split at white space, case-sensitive.

Only for LaMP's tasks, to which its numbers belong. `program.memory.retrieval.bm25` is for all others.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rank_bm25 import BM25Okapi


class LampBm25(BM25Okapi):  # type: ignore[misc]  # rank-bm25 has no types
    """A `Retriever` with the scores of a new `BM25Okapi` over all texts, bit for bit.

    Counts and idf come from the library. We add an inverted index, so that a query costs only its
    own words and the index can grow. A word of most texts can have a negative score (rank-bm25's
    floor on idf); a text without a word of the query scores zero.

    Source: LaMP's retrieval, defaults k1 = 1.5, b = 0.75, epsilon = 0.25.
    """

    def __init__(self) -> None:
        self._texts_with: Counter[str] = Counter()
        self._postings: dict[str, tuple[array[int], array[float]]] = defaultdict(_no_postings)
        self._norms: npt.NDArray[np.float64] | None = None
        super().__init__([])

    def _initialize(self, corpus: Sequence[Sequence[str]]) -> dict[str, int]:
        # The library divides by the number of texts, which must not be 0.
        return super()._initialize(corpus) if corpus else {}

    def _calc_idf(self, nd: dict[str, int]) -> None:
        # The library divides by the number of words, which must not be 0.
        if nd:
            super()._calc_idf(nd)

    def split(self, text: str) -> list[str]:
        """Return the words of a text or a query."""
        return text.split()

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts; the next query recomputes idf and length norms."""
        first = self.corpus_size
        self._texts_with.update(self._initialize([self.split(text) for text in texts]))
        for number, frequencies in enumerate(self.doc_freqs, first):
            for word, count in frequencies.items():
                numbers, counts = self._postings[word]
                numbers.append(number)
                counts.append(count)
        self.doc_freqs.clear()
        self._norms = None

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Return one score for each text."""
        return self.get_scores(self.split(query))

    def get_scores(self, query: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the library's scores for a list of words."""
        norms = self._refresh() if self._norms is None else self._norms
        scores = np.zeros(self.corpus_size)
        for word in query:
            if word in self._postings:
                numbers, counts = (np.frombuffer(part, part.typecode) for part in self._postings[word])
                scores[numbers] += self.idf[word] * (counts * (self.k1 + 1) / (counts + norms[numbers]))
        return scores

    def _refresh(self) -> npt.NDArray[np.float64]:
        self._calc_idf(self._texts_with)
        lengths: npt.NDArray[Any] = np.array(self.doc_len)
        # The library averages only over the texts of the last `extend`.
        self.avgdl = lengths.sum() / max(self.corpus_size, 1)
        self._norms = self.k1 * (1 - self.b + self.b * lengths / (self.avgdl or 1.0))
        return self._norms


def _no_postings() -> tuple[array[int], array[float]]:
    return array("q"), array("d")
