"""Texts from outside: repaired, refused, or escaped for a terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.text_safety import find_problem, printable, repair

ANY_TEXT = st.text(st.characters(codec=None))  # surrogates and controls included


@given(ANY_TEXT)
def test_repaired_text_can_be_encoded_and_stored(text: str) -> None:
    fixed = repair(text)
    fixed.encode("utf-8")
    assert find_problem(fixed) == ""
    assert repair(fixed) == fixed


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufeff\ufffe\uffff")
    )
)
def test_ordinary_text_is_not_changed_by_repair(text: str) -> None:
    assert repair(text) == text


@given(ANY_TEXT)
def test_printed_text_holds_no_control(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not any(
        (character < " " and character not in "\n\t") or "\x7f" <= character <= "\x9f" for character in shown
    )
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("\ud83d\ude00", "😀"),
        ("I like \ud83d cakes", "I like \ufffd cakes"),
        ("\ufefftitle", "title"),
        ("a\x00b\x1b[2Jc", "ab[2Jc"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("👩‍👩‍👧 שלום", "👩‍👩‍👧 שלום"),
    ],
)
def test_repair_by_hand(text: str, fixed: str) -> None:
    assert repair(text) == fixed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("line\nnext\tcell", "line\nnext\tcell"),
        ("\ud83d", r"\ud83d"),
        ("a\rb", r"a\x0db"),
        ("שלום 一杯绿茶 😀", "שלום 一杯绿茶 😀"),
    ],
)
def test_printable_by_hand(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_problems_name_the_place() -> None:
    assert find_problem("ab\x00") == "holds a NUL character at character 2"
    assert find_problem(json.loads('"\\ud83d"')) == "holds half of a surrogate pair at character 0"
