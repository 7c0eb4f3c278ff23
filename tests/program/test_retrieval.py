import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from program.errors import ConfigError
from program.memory.retrieval import Bm25, Dense, Hybrid, LampBm25, Recency, make_retriever

WORDS = ["a", "b", "c", "d", "A", "the"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=12)


class Fixed:
    """Returns fixed scores for every query."""

    def __init__(self, *scores: float) -> None:
        self._scores = np.array(scores)
        self.texts: list[str] = []

    def extend(self, texts: Sequence[str]) -> None:
        self.texts.extend(texts)

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        return self._scores


def test_lamp_bm25_equals_scores_computed_by_hand() -> None:
    bm25 = LampBm25()
    bm25.extend(["cat sat", "dog sat", "fox"])
    # idf = ln(2.5 / 1.5); norm = 1.5 * (0.25 + 0.75 * 2 / (5 / 3)) = 1.725; 0.510826 * 2.5 / 2.725
    assert bm25.scores("cat") == pytest.approx([0.468648, 0.0, 0.0], abs=1e-6)


def test_lamp_bm25_is_sensitive_to_case_and_punctuation() -> None:
    bm25 = LampBm25()
    bm25.extend(["Cat.", "dog", "fox"])
    assert not bm25.scores("cat").any()
    assert bm25.scores("Cat.")[0] > 0


@given(
    corpus=texts.filter(lambda corpus: any(map(str.split, corpus))), query=st.lists(st.sampled_from(WORDS))
)
def test_lamp_bm25_equals_rank_bm25_for_any_sequence_of_extensions(
    corpus: list[str], query: list[str]
) -> None:
    expected = BM25Okapi([text.split() for text in corpus]).get_scores(query)
    for cuts in ((), (1,), tuple(range(len(corpus)))):
        bm25 = LampBm25()
        for start, stop in zip((0, *cuts), (*cuts, len(corpus)), strict=True):
            bm25.extend(corpus[start:stop])
            bm25.scores("a b")
        assert np.array_equal(bm25.scores(" ".join(query)), expected)


@pytest.mark.parametrize("name", ["bm25", "lamp-bm25"])
@pytest.mark.parametrize("corpus", [[], [""], ["", " \n"]])
def test_bm25_scores_texts_without_words_zero(corpus: list[str], name: str) -> None:
    bm25 = make_retriever(name)
    bm25.extend(corpus)
    assert bm25.scores("word").tolist() == [0.0] * len(corpus)


def test_lamp_bm25_is_three_times_as_fast_as_rank_bm25() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{n}" for n in range(3000)]
    corpus = [" ".join(rng.choices(vocabulary, k=50)) for _ in range(1000)]
    library = BM25Okapi([text.split() for text in corpus])
    ours = LampBm25()
    ours.extend(corpus)
    ours.scores("w1")

    def best_seconds(ask: Callable[[], object]) -> float:
        seconds = []
        for _ in range(7):
            started = time.perf_counter()
            ask()
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    query = corpus[0]
    assert (
        best_seconds(lambda: ours.scores(query)) < best_seconds(lambda: library.get_scores(query.split())) / 3
    )


def test_recency_scores_every_text_zero() -> None:
    recency = Recency()
    recency.extend(["a", "b"])
    recency.extend(["c"])
    assert recency.scores("a").tolist() == [0.0, 0.0, 0.0]


def test_hybrid_adds_reciprocal_ranks() -> None:
    hybrid = Hybrid(Fixed(3.0, 2.0, 1.0), Fixed(0.1, 0.9, 0.5))
    assert hybrid.scores("q") == pytest.approx([1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])


def test_hybrid_ties_share_the_better_rank() -> None:
    hybrid = Hybrid(Fixed(2.0, 2.0, 1.0), Fixed(0.5, 0.5, 0.9))
    first, second, third = hybrid.scores("q")
    assert first == second == pytest.approx(1 / 61 + 1 / 62)
    assert third == pytest.approx(1 / 63 + 1 / 61)


def test_hybrid_ranks_by_the_dense_side_if_no_word_matches() -> None:
    hybrid = Hybrid(Fixed(0.0, 0.0, 0.0), Fixed(0.1, 0.9, 0.5))
    assert np.argsort(-hybrid.scores("q")).tolist() == [1, 2, 0]


def test_hybrid_extends_both_sides() -> None:
    lexical, dense = Fixed(), Fixed()
    Hybrid(lexical, dense).extend(["a"])
    assert lexical.texts == dense.texts == ["a"]


def test_make_retriever_returns_a_new_object_for_each_call() -> None:
    assert isinstance(make_retriever("bm25"), Bm25)
    assert type(make_retriever("lamp-bm25")) is LampBm25
    assert isinstance(make_retriever("recency"), Recency)
    assert make_retriever("bm25") is not make_retriever("bm25")


@pytest.mark.parametrize("name", ["", "BM25", "bm25:x", "colbert"])
def test_unknown_name_raises_with_the_valid_names(name: str) -> None:
    with pytest.raises(ConfigError, match="use hybrid, bm25, static, recency, dense"):
        make_retriever(name)


class CharacterEncoder:
    """Embeds a text by its count of the letters a, b and c."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.batches.append(list(texts))
        counts = np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def test_dense_scores_are_cosines_computed_by_hand() -> None:
    dense = Dense(CharacterEncoder())
    dense.extend(["a", "b", "ab"])
    assert dense.scores("a") == pytest.approx([1.0, 0.0, 0.5**0.5], abs=1e-6)


def test_dense_encodes_equal_texts_once() -> None:
    encoder = CharacterEncoder()
    dense = Dense(encoder)
    dense.extend(["a", "b", "a"])
    dense.extend(["b", "c"])
    assert encoder.batches == [["a", "b"], ["c"]]
    assert dense.scores("a").tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]


@given(
    batches=st.lists(st.lists(st.sampled_from(["a", "ab", "bc", "c"]), max_size=4), min_size=1, max_size=4)
)
def test_dense_scores_do_not_depend_on_the_batches(batches: list[list[str]]) -> None:
    texts = [text for batch in batches for text in batch]
    extended, fresh = Dense(CharacterEncoder()), Dense(CharacterEncoder())
    for batch in batches:
        extended.extend(batch)
    fresh.extend(texts)
    assert extended.scores("ab").tolist() == fresh.scores("ab").tolist()
    assert len(extended.scores("ab")) == len(texts)


@given(scores=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_hybrid_depends_only_on_ranks(scores: list[tuple[int, int]]) -> None:
    lexical, dense = ([float(pair[side]) for pair in scores] for side in (0, 1))
    plain = Hybrid(Fixed(*lexical), Fixed(*dense)).scores("q")
    stretched = Hybrid(Fixed(*(10 * s**3 for s in lexical)), Fixed(*(s / 7 - 1 for s in dense))).scores("q")
    assert plain.tolist() == stretched.tolist()
    assert (plain > 0).all()


def test_hybrid_of_an_empty_index_has_no_scores() -> None:
    assert Hybrid(Bm25(), Dense(CharacterEncoder())).scores("q").shape == (0,)


def test_hybrid_weighs_the_dense_side() -> None:
    fused = Hybrid(Fixed(1.0, 2.0), Fixed(0.9, 0.1), weight=4).scores("q")
    assert fused.tolist() == pytest.approx([1 / 62 + 4 / 61, 1 / 61 + 4 / 62])


def test_hybrid_ranks_a_negative_lexical_score_as_a_match() -> None:
    # BM25 scores a word of most texts below zero; zero means that the text has no word of the query.
    fused = Hybrid(Fixed(-1.0, 0.0), Fixed(0.5, 0.5)).scores("q")
    assert fused[0] == pytest.approx(1 / 62 + 1 / 61)
    assert fused[1] == pytest.approx(1 / 61)


@given(corpus=texts, query=st.lists(st.sampled_from(WORDS)))
def test_lamp_bm25_scores_are_zero_without_a_common_word(corpus: list[str], query: list[str]) -> None:
    bm25 = LampBm25()
    bm25.extend(corpus)
    for text, score in zip(corpus, bm25.scores(" ".join(query)), strict=True):
        if not set(text.split()) & set(query):
            assert score == 0.0


def test_lamp_bm25_ignores_words_that_no_text_has() -> None:
    bm25 = LampBm25()
    bm25.extend(["red apple", "blue sky", "green leaf"])
    assert bm25.scores("red zebra").tolist() == bm25.scores("red").tolist()


def test_bm25_equals_scores_computed_by_hand_with_lucenes_idf() -> None:
    bm25 = Bm25()
    bm25.extend(["The cat SAT.", "dog", "a dog and the cat!"])
    # idf = ln(1 + 1.5 / 2.5) = 0.470004; the mean length is 3 words.
    # norm = 1.5 * (0.25 + 0.75 * 3 / 3) = 1.5 and 1.5 * (0.25 + 0.75 * 5 / 3) = 2.25
    expected = [0.470004 * 2.5 / (1 + 1.5), 0.0, 0.470004 * 2.5 / (1 + 2.25)]
    assert bm25.scores("Cat?") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("corpus", [["tea"], ["tea", "coffee"], ["tea", "tea with milk"], ["tea"] * 3])
def test_bm25_scores_a_match_above_zero_in_a_history_of_a_few_texts(corpus: list[str]) -> None:
    bm25 = Bm25()
    bm25.extend(corpus)
    scores = bm25.scores("tea, please")
    assert [score > 0 for score in scores] == ["tea" in text for text in corpus]


def test_bm25_ranks_an_equal_text_above_one_that_repeats_the_words() -> None:
    bm25 = Bm25()
    bm25.extend(["tea", "tea tea tea", "Tea!", "coffee"])
    scores = bm25.scores("tea")
    assert scores.argmax() == 0
    assert (scores[1:3] > 0).all()
    assert scores[3] == 0.0


@given(corpus=texts, query=st.lists(st.sampled_from(WORDS)))
def test_bm25_scores_do_not_depend_on_the_extensions(corpus: list[str], query: list[str]) -> None:
    at_once, one_by_one = Bm25(), Bm25()
    at_once.extend(corpus)
    for text in corpus:
        one_by_one.extend([text])
        one_by_one.scores("a")
    words = " ".join(query)
    assert one_by_one.scores(words).tolist() == at_once.scores(words).tolist()
    assert (at_once.scores(words) >= 0).all()


class Blind:
    """Embeds every text as the same vector, like an encoder that knows no word of a script."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        for text in texts:
            text.encode()
        self.texts.extend(texts)
        return np.ones((len(texts), 1), dtype=np.float32)


def test_dense_ranks_an_equal_text_first_even_if_the_encoder_sees_no_difference() -> None:
    dense = Dense(Blind())
    dense.extend(["чай", "кофе", "чай", "сок"])
    scores = dense.scores("чай")
    assert scores[0] == scores[2] > max(scores[1], scores[3])
    assert scores == pytest.approx([1.0] * 4)
    assert dense.scores("вода").tolist() == [1.0] * 4


@pytest.mark.parametrize("text", ["", "\x00", "half \ud83d", "\udf75", "\u202e", "\r\n"])
def test_dense_and_hybrid_read_any_text(text: str) -> None:
    encoder = Blind()
    hybrid = Hybrid(Bm25(), Dense(encoder))
    hybrid.extend(["tea", text])
    assert np.isfinite(hybrid.scores(text)).all()
    assert not any("\ud800" <= character <= "\udfff" for seen in encoder.texts for character in seen)


def test_hybrids_differ_in_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dense, "from_folder", lambda folder=None: Dense(Blind()))
    for name, lexical in (
        ("hybrid:dense", Bm25),
        ("hybrid:folder", Bm25),
        ("lamp-hybrid", LampBm25),
        ("lamp-hybrid:folder", LampBm25),
    ):
        retriever = make_retriever(name)
        assert isinstance(retriever, Hybrid)
        assert type(retriever.lexical) is lexical
