"""BM25 for any language: words in any script, without case and punctuation."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from program.memory.retrieval.lamp_bm25 import LampBm25
from program.memory.retrieval.words import split_words


class Bm25(LampBm25):
    """A `Retriever` over the words of `split_words`.

    Texts equal to the query score highest. All other texts with a word of the query score above zero,
    also in a history of a few texts (Lucene's idf; rank-bm25's is zero or negative there), and texts
    without one score zero.

    Example:
        >>> bm25 = Bm25()
        >>> bm25.extend(["Sushi, please!", "寿司を食べたい"])
        >>> int(bm25.scores("sushi").argmax()), int(bm25.scores("寿司").argmax())
        (0, 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self._hashes = array("q")

    def split(self, text: str) -> list[str]:
        """Return the words of a text or a query."""
        return split_words(text)

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts; the next query recomputes idf and length norms."""
        super().extend(texts)
        self._hashes.extend(map(_hash, texts))

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Return one score for each text."""
        scores = super().scores(query)
        equal = np.frombuffer(self._hashes, np.int64) == _hash(query)
        scores[equal] = scores.max(initial=0.0) + 1.0
        return scores

    def _calc_idf(self, nd: Mapping[str, int]) -> None:
        self.idf = {
            word: math.log(1 + (self.corpus_size - texts + 0.5) / (texts + 0.5)) for word, texts in nd.items()
        }


def _hash(text: str) -> int:
    # Python's own differs between processes, and a pickled index may move to another one.
    digest = hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
