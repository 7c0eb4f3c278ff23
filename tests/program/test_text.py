"""Shortened text never exceeds its limit and stays on one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.text import counted, cut, one_line


@given(st.text(), st.integers(1, 40))
def test_cut_text_fits_and_starts_with_the_original(text: str, max_chars: int) -> None:
    short = cut(text, max_chars)
    assert len(short) <= max_chars
    assert short == text if len(text) <= max_chars else short == text[: max_chars - 1] + "…"


@given(st.text(), st.integers(1, 40))
def test_one_line_has_no_line_break_and_no_double_space(text: str, max_chars: int) -> None:
    line = one_line(text, max_chars)
    assert len(line) <= max_chars
    assert len(line.splitlines()) <= 1
    assert "  " not in line


@pytest.mark.parametrize(
    ("text", "max_chars", "line"),
    [
        ("", 5, ""),
        (" \n\t ", 5, ""),
        ("abcde", 5, "abcde"),
        ("abcdef", 5, "abcd…"),
        ("a\r\nb\u2028c", 9, "a b c"),
        (ValueError("two\nlines"), 20, "two lines"),
    ],
)
def test_one_line_examples(text: object, max_chars: int, line: str) -> None:
    assert one_line(text, max_chars) == line


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 queries"), (1, "1 query"), (2, "2 queries"), (1234, "1,234 queries")]
)
def test_only_one_is_counted_in_the_singular(number: int, text: str) -> None:
    assert counted(number, "query", "queries") == text
