"""Answer types parse strictly and score agreement."""

from __future__ import annotations

import pytest

from program.answers import Labels, Rating, Text
from program.errors import ConfigError, UnparsableAnswerError


@pytest.mark.parametrize("raw", ["Comedy", "comedy.", "", "com", "comedy drama"])
def test_labels_match_exactly(raw: str) -> None:
    with pytest.raises(UnparsableAnswerError) as raised:
        Labels(("comedy", "drama")).parse(raw)
    assert raised.value.raw == raw


def test_surrounding_white_space_of_a_label_is_ignored() -> None:
    assert Labels(("comedy", "drama")).parse(" drama\n") == "drama"


@pytest.mark.parametrize("raw", ["0", "6", "4.5", "five", "", "²", "nan"])
def test_rating_must_be_an_integer_in_range(raw: str) -> None:
    with pytest.raises(UnparsableAnswerError):
        Rating(1, 5).parse(raw)


def test_agreement_equals_values_computed_by_hand() -> None:
    assert Labels(("a", "b")).agreement("a", "b") == 0.0
    assert Rating(1, 5).agreement("2", "5") == 0.25
    assert Text().agreement("the cat sat", "the cat ran") == pytest.approx(2 / 3)


def test_text_is_cut_and_must_not_be_empty() -> None:
    assert Text(max_chars=3).parse(" abcdef ") == "abc"
    with pytest.raises(UnparsableAnswerError, match="empty"):
        Text().parse("  ")


def test_degenerate_answer_types_raise_config_error() -> None:
    with pytest.raises(ConfigError):
        Labels(("only",))
    with pytest.raises(ConfigError):
        Labels(("twice", "twice"))
    with pytest.raises(ConfigError):
        Rating(5, 5)
