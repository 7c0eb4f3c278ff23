"""What a model said is read strictly, and compared by the rule of its type."""

from __future__ import annotations

import pytest

from program.answers import Labels, Rating, Text
from program.errors import ConfigError, UnparsableAnswerError


@pytest.mark.parametrize("raw", ["Comedy", "comedy.", "", "com", "comedy drama"])
def test_labels_are_exact(raw: str) -> None:
    with pytest.raises(UnparsableAnswerError) as caught:
        Labels(("comedy", "drama")).parse(raw)
    assert caught.value.raw == raw


def test_label_may_have_blanks_around_it() -> None:
    assert Labels(("comedy", "drama")).parse(" drama\n") == "drama"


@pytest.mark.parametrize("raw", ["0", "6", "4.5", "five", "", "²", "nan"])
def test_rating_outside_the_range_or_no_integer(raw: str) -> None:
    with pytest.raises(UnparsableAnswerError):
        Rating(1, 5).parse(raw)


def test_agreement_by_hand() -> None:
    assert Labels(("a", "b")).agreement("a", "b") == 0.0
    assert Rating(1, 5).agreement("2", "5") == 0.25
    assert Text().agreement("the cat sat", "the cat ran") == pytest.approx(2 / 3)


def test_text_is_cut_and_never_empty() -> None:
    assert Text(max_chars=3).parse(" abcdef ") == "abc"
    with pytest.raises(UnparsableAnswerError, match="empty"):
        Text().parse("  ")


def test_types_that_cannot_be_answered_are_refused() -> None:
    with pytest.raises(ConfigError):
        Labels(("only",))
    with pytest.raises(ConfigError):
        Labels(("twice", "twice"))
    with pytest.raises(ConfigError):
        Rating(5, 5)
