"""The static encoder: one fixed vector for each token, averaged; numpy only, without network access.

The vectors and their tokenizer are WordLlama's (MIT), the files in the wheel of ``wordllama``. We read
these files ourselves: importing ``wordllama`` reconfigures logging and looks up the home folder.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from program.models.weights import STATIC_ENCODER, STATIC_TOKENIZER, locate

_loading = threading.Lock()


class StaticEncoder:
    """Embeds texts as the mean of their tokens' vectors, normalized to length one. Thread-safe.

    Equal to WordLlama's ``embed(texts, norm=True)``, and zero for a text without tokens. A text's
    embedding does not depend on the others in ``texts``. The files are checked at once and read at the
    first text; a process reads them once.

    Raises:
        ModelSetupError: The package is not installed, or a file is not the tested one.

    Example:
        >>> film, pasta, movie = StaticEncoder().encode(["a film", "boil the pasta", "a movie"])
        >>> bool(film @ movie > film @ pasta)
        True
    """

    def __init__(self) -> None:
        self._vectors = locate(STATIC_ENCODER)
        self._tokenizer = locate(STATIC_TOKENIZER)

    def __reduce__(self) -> Any:
        # Another process finds its own files and checks them.
        return StaticEncoder, ()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the embeddings, shape ``(len(texts), width)``, in the order of ``texts``."""
        with _loading:
            vectors, tokenizer = _load(self._vectors, self._tokenizer)
        embeddings = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        for row, text in enumerate(texts):
            # One by one: a batch starts threads, and `tokenizers` warns on stderr if the process forks later.
            tokens = tokenizer.encode(text, add_special_tokens=False).ids
            # Counts bound the memory that a very long text takes.
            distinct, counts = np.unique(np.array(tokens, dtype=np.intp), return_counts=True)
            total = counts.astype(np.float32) @ vectors[distinct]
            embeddings[row] = total / (np.linalg.norm(total) or 1.0)
        return embeddings


@lru_cache(maxsize=1)
def _load(vectors: Path, tokenizer: Path) -> tuple[npt.NDArray[np.float32], Any]:
    # Reading them takes 0.2 s, which a session without a search need not wait for.
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    return load_file(vectors)["embedding.weight"].astype(np.float32), Tokenizer.from_file(str(tokenizer))
