# ruff: noqa: RUF001 - other scripts are the point
"""Search and agreement in every script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.answers import Text, chrf
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.retrieval import make_retriever
from program.memory.retrieval.words import split_words

SCRIPTS = (
    "the sushi bar opens late",
    "чай с мёдом и лимоном",
    "一杯绿茶和寿司",
    "寿司を食べたい夜",
    "شاي بالنعناع مساء",
    "ชาเขียวกับขนม",
    "तुलसी की चाय",
    "초밥을 먹고 싶다",
    "תה עם נענע",
    "🍵🍣",
)
# Every code point, half surrogate pairs and controls too.
ANY_TEXT = st.one_of(st.sampled_from(SCRIPTS), st.text(st.characters(exclude_categories=()), max_size=40))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Sushi, please!", ["sushi", "please"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("don't stop", ["don", "t", "stop"]),
        ("寿司", ["寿司", "寿", "司"]),
        ("ﬁne ＡＢＣ", ["fine", "abc"]),
        ("", []),
        ("...", []),
        ("_sushi_ foo_bar", ["sushi", "foo", "bar"]),
        ("iPhone用ケース", ["iphone", "用ケ", "ケー", "ース", "用"]),
        ("ｹｰｷ", ["ケー", "ーキ"]),
        ("茶", ["茶"]),
        ("녹차를", ["녹차", "차를", "녹", "차", "를"]),
        ("ชา", ["ชา"]),
        ("तुलसी की", ["तुलसी", "की"]),
        ("İstanbul ISPARTA ısparta", ["istanbul", "isparta", "isparta"]),
        ("شَاي شاي", ["شاي", "شاي"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("sof\u00adt", ["soft"]),
        ("☕\ufe0f👩\u200d🍳", ["☕", "👩", "🍳"]),
        ("tea\x00\ud83dcake", ["tea", "cake"]),
    ],
)
def test_words_by_hand(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(ANY_TEXT)
def test_words_have_no_white_space_and_any_text_splits(text: str) -> None:
    words = split_words(text)
    assert all(word and not any(character.isspace() for character in word) for word in words)


@given(st.lists(ANY_TEXT, min_size=1, max_size=12), st.data())
def test_search_finds_the_identical_item_first(texts: list[str], data: st.DataObject) -> None:
    history = [
        Interaction(id=str(n), user_id="u", query=text, response=f"r{n}") for n, text in enumerate(texts)
    ]
    query = data.draw(st.sampled_from(texts))
    matches = EpisodicMemory("u", history).search(query, 3)
    assert matches[0].query.strip() == query.strip()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sushi,", 0),
        ("寿司", 2),
        ("食べたい", 3),
        ("МЁДОМ", 1),
        ("شاي", 4),
        ("เขียว", 5),
        ("चाय", 6),
        ("🍣", 9),
    ],
)
def test_a_word_of_any_script_finds_its_text(query: str, expected: int) -> None:
    retriever = make_retriever("bm25")
    retriever.extend(SCRIPTS)
    scores = retriever.scores(query)
    assert scores[expected] > 0
    if query != "寿司":
        assert int(scores.argmax()) == expected


@given(ANY_TEXT, ANY_TEXT)
def test_agreement_is_a_share_and_the_order_is_irrelevant(first: str, second: str) -> None:
    score = chrf(first, second)
    assert 0.0 <= score <= 1.0
    assert score == pytest.approx(chrf(second, first))
    assert chrf(first, first) == 1.0


@pytest.mark.parametrize("text", [*SCRIPTS, "🍵", "a", "?"])
def test_the_same_answer_agrees_in_every_script(text: str) -> None:
    assert Text().agreement(text, text) == 1.0
    assert Text().agreement(f" {text}\n", text) == 1.0
    assert Text().agreement(text, "") == 0.0


def test_agreement_grows_with_what_is_shared() -> None:
    truth = "чай с мёдом"
    close, far = Text().agreement("чай с лимоном", truth), Text().agreement("кофе", truth)
    assert 1.0 > close > far


def test_half_a_surrogate_pair_raises_nothing() -> None:
    assert 0.0 <= chrf("I like \ud83d cakes", "I like cakes") <= 1.0
    retriever = make_retriever("bm25")
    retriever.extend(["\ud83d cakes", ""])
    assert retriever.scores("cakes \ud83d").shape == (2,)


def test_a_word_has_the_same_parts_alone_and_within_a_text() -> None:
    assert set(split_words("緑茶")) <= set(split_words("今日は緑茶を飲む"))
    assert set(split_words("녹차")) <= set(split_words("녹차를 마셔요"))
    assert set(split_words("เขียว")) <= set(split_words("ดื่มชาเขียวทุกวัน"))


@given(ANY_TEXT, ANY_TEXT)
def test_words_of_two_joined_texts_are_the_words_of_both(first: str, second: str) -> None:
    assert split_words(f"{first}\n{second}") == split_words(first) + split_words(second)


@given(ANY_TEXT)
def test_capitals_do_not_change_the_words(text: str) -> None:
    plain = "".join(character for character in text if character.upper().lower() == character)
    assert split_words(plain.upper()) == split_words(plain)


def test_texts_of_millions_of_characters_are_compared() -> None:
    assert chrf("a" * 3_000_000, "b" * 3_000_000) == 0.0
