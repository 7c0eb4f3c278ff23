"""Answer types parse strictly and score agreement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from program.answers import Labels, Rating, Text, fits
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
    # One of two characters, none of one pair of characters; longer n-grams do not exist.
    assert Text().agreement("ab", "ac") == pytest.approx((1 / 2 + 0) / 2)
    # Precision (2/2 + 1/1) / 2, recall (2/3 + 1/2) / 2 over the lengths that both texts have.
    assert Text().agreement("ab", "abc") == pytest.approx(2 * 1 * (7 / 12) / (1 + 7 / 12))


def test_text_is_kept_whole_and_must_not_be_empty() -> None:
    assert Text(max_chars=3).parse(" abcdef ") == "abcdef"
    assert Text().parse("x" * 50_000) == "x" * 50_000
    with pytest.raises(UnparsableAnswerError, match="empty"):
        Text().parse("  ")


def test_degenerate_answer_types_raise_config_error() -> None:
    with pytest.raises(ConfigError):
        Labels(("only",))
    with pytest.raises(ConfigError):
        Labels(("twice", "twice"))
    with pytest.raises(ConfigError):
        Rating(5, 5)


RATINGS = st.builds(lambda low, size: Rating(low, low + size), st.integers(-9, 9), st.integers(1, 9))


@given(rating=RATINGS, data=st.data())
def test_rating_agreement_is_symmetric_and_one_only_for_equal_ratings(
    rating: Rating, data: st.DataObject
) -> None:
    first, second = (str(data.draw(st.integers(rating.low, rating.high))) for _ in range(2))
    agreement = rating.agreement(first, second)
    assert 0.0 <= agreement <= 1.0
    assert agreement == rating.agreement(second, first)
    assert (agreement == 1.0) == (first == second)


@given(rating=RATINGS, value=st.integers(-30, 30))
def test_rating_parses_exactly_the_integers_of_its_range(rating: Rating, value: int) -> None:
    assert fits(rating, f" {value}\n") == (rating.low <= value <= rating.high)


def test_rating_normalizes_leading_zeros_and_negative_numbers() -> None:
    assert Rating(1, 5).parse("04") == "4"
    assert Rating(-2, 2).parse("-1") == "-1"
    assert Rating(-2, 2).agreement("-2", "2") == 0.0


def test_rating_rejects_a_number_of_thousands_of_digits_with_a_short_message() -> None:
    with pytest.raises(UnparsableAnswerError) as raised:
        Rating(1, 5).parse("9" * 10_000)
    assert len(str(raised.value)) < 150
    assert raised.value.raw == "9" * 10_000


@given(st.lists(st.text(min_size=1).filter(lambda text: text == text.strip()), min_size=2, unique=True))
def test_every_label_parses_to_itself(values: list[str]) -> None:
    labels = Labels(tuple(values))
    assert [labels.parse(value) for value in values] == values


@given(st.text(), st.integers(1, 20))
def test_parsing_a_text_changes_only_the_space_around_it(text: str, max_chars: int) -> None:
    answer_type = Text(max_chars=max_chars, allow_empty=True)
    assert answer_type.parse(text) == text.strip()


def test_empty_text_is_valid_only_if_allowed() -> None:
    assert Text(allow_empty=True).parse(" \n") == ""
    assert fits(Text(allow_empty=True), "")
    assert not fits(Text(), "")


def test_agreement_of_texts_counts_case_and_shared_parts_of_words() -> None:
    assert 0.0 < Text().agreement("cats", "cat") < 1.0
    assert Text().agreement("The Cat", "the cat") < Text().agreement("the cats", "the cat")


def test_agreement_counts_line_breaks_but_not_their_kind() -> None:
    assert Text().agreement("Hi Ann,\r\ntea?\r", "Hi Ann,\ntea?") == 1.0
    assert Text().agreement("Hi Ann, tea?", "Hi Ann,\ntea?") < 1.0


def test_texts_that_differ_only_beyond_the_compared_length_agree() -> None:
    answer_type = Text(max_chars=12)
    assert answer_type.agreement("twelve chars, but not more", "  twelve chars and more") == 1.0
    assert answer_type.agreement("twelve chars, but not more", "  twelve words and more") < 1.0


def test_two_empty_texts_agree_and_an_empty_one_agrees_with_no_other() -> None:
    assert Text(allow_empty=True).agreement("", " \n") == 1.0
    assert Text(allow_empty=True).agreement("", "tea") == 0.0
    assert Text(allow_empty=True).agreement("tea", "") == 0.0


def test_non_text_values_are_parsed_as_text() -> None:
    assert Rating(1, 5).parse(4) == "4"
    assert Labels(("True", "False")).parse(True) == "True"
    assert Text().parse(3.5) == "3.5"


def test_annotations_accept_exactly_the_valid_answers() -> None:
    assert TypeAdapter(Rating(1, 3).annotation).json_schema()["enum"] == [1, 2, 3]
    assert TypeAdapter(Labels(("a", "b")).annotation).json_schema()["enum"] == ["a", "b"]
    assert Text().annotation is str
