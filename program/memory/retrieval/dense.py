"""Dense retrieval: cosine similarity of embeddings, static ones or those of a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from program.memory.retrieval.encoder import load_encoder
from program.text_safety import repair


class Encoder(Protocol):
    """Embeds texts as unit vectors. Thread-safe."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the embeddings, shape ``(len(texts), width)``."""
        ...


class Dense:
    """A `Retriever` that scores by cosine similarity to the query, in [-1, 1].

    Equal texts are encoded once and have exactly equal scores. No other text scores as high as one
    equal to the query, because words that an encoder does not know are all the same to it.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._row_of: dict[str, int] = {}
        self._rows: list[int] = []
        self._vectors: npt.NDArray[np.float32] | None = None

    @classmethod
    def from_folder(cls, folder: str | Path | None = None) -> Dense:
        """Return a retriever with the sentence encoder in ``folder``, or the packaged all-MiniLM-L6-v2.

        Raises:
            ModelSetupError: The encoder cannot be loaded; the message has the command that fixes it.
        """
        return cls(load_encoder(folder))

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts; only new ones are encoded."""
        new = [text for text in dict.fromkeys(texts) if text not in self._row_of]
        if new:
            vectors = self._encode(new)
            self._vectors = vectors if self._vectors is None else np.concatenate([self._vectors, vectors])
            self._row_of.update((text, row) for row, text in enumerate(new, len(self._row_of)))
        self._rows.extend(self._row_of[text] for text in texts)

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Return the cosine similarity of each text to the query."""
        if self._vectors is None:
            return np.zeros(0)
        row = self._row_of.get(query)
        vector = self._encode([query])[0] if row is None else self._vectors[row]
        similarities: npt.NDArray[np.float64] = (self._vectors @ vector).astype(np.float64)
        if row is not None and np.count_nonzero(similarities >= similarities[row]) > 1:
            similarities[row] = np.nextafter(similarities.max(), np.inf)
        scores: npt.NDArray[np.float64] = similarities[self._rows]
        return scores

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        # Tokenizers refuse half of a surrogate pair.
        return self._encoder.encode([repair(text) for text in texts])
