"""JSON values as texts, ids, metadata and times."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program import values
from program.values import kind, to_id, to_metadata, to_text, to_time

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("NaT", None),
        (math.nan, None),
        ("1980", utc(1980, 1, 1)),
        (2011, utc(2011, 1, 1)),
        (2011.0, utc(2011, 1, 1)),
        ("2006-01-13", utc(2006, 1, 13)),
        ("2006-01-13T10:00:00Z", utc(2006, 1, 13, 10)),
        ("2006-01-13 10:00:00.5", utc(2006, 1, 13, 10, 0, 0, 500_000)),
        ("2006-01-13T10:00", utc(2006, 1, 13, 10)),
        ("2006-01-13 10:00:00 UTC", utc(2006, 1, 13, 10)),
        ("2006-01-13 10:00:00GMT", utc(2006, 1, 13, 10)),
        ("2006-01-13 10:00:00 +0000 UTC", utc(2006, 1, 13, 10)),
        ("2006-01-13 10:00:00+00", utc(2006, 1, 13, 10)),
        ("2006-01-13T19:00:00+09:00", utc(2006, 1, 13, 10)),
        ("2006-01-13T19:00:00.25 +0900", utc(2006, 1, 13, 10, 0, 0, 250_000)),
        (1136073600, utc(2006, 1, 1)),
        ("1136073600", utc(2006, 1, 1)),
        (1136073600.25, utc(2006, 1, 1, 0, 0, 0, 250_000)),
        ("1136073600.25", utc(2006, 1, 1, 0, 0, 0, 250_000)),
        (1136073600123, utc(2006, 1, 1, 0, 0, 0, 123_000)),
        ("1136073600123", utc(2006, 1, 1, 0, 0, 0, 123_000)),
        (1136073600123456, utc(2006, 1, 1, 0, 0, 0, 123_456)),
        (1136073600123456789, utc(2006, 1, 1, 0, 0, 0, 123_456)),
    ],
)
def test_time_is_read_in_utc(value: object, time: datetime | None) -> None:
    assert to_time(value) == time


@pytest.mark.parametrize(
    "value",
    [
        "0000",
        "20060113",
        "2006-13-01",
        "13.01.2006",
        "1/2/2006",
        "yesterday",
        0,
        -1,
        12.5,
        10**20,
        "0001-01-01T00:00+09:00",
        "9999-12-31T23:59:59-09:00",
        "2006-01-13 10:00 CEST",
        "2006-01-13T25:00",
        math.inf,
        True,
        [],
        {},
    ],
)
def test_other_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not a time; use|must be text or a number"):
        to_time(value)


@given(st.integers(10**8 * 10**6, 9 * 10**10 * 10**6))
def test_units_since_1970_give_one_time(micros: int) -> None:
    time = utc(1970, 1, 1) + timedelta(microseconds=micros)
    seconds = micros // 10**6
    assert to_time(seconds) == to_time(str(seconds)) == time.replace(microsecond=0)
    assert to_time(micros // 1000) == time.replace(microsecond=time.microsecond // 1000 * 1000)
    assert to_time(micros) == to_time(micros * 1000) == to_time(time.isoformat()) == time


@pytest.mark.parametrize(("value", "text"), [("7.0", "7.0"), (7, "7"), (7.0, "7"), (-7.0, "-7"), (0.0, "0")])
def test_whole_float_is_the_id_of_its_integer(value: object, text: str) -> None:
    assert to_id(value) == text


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is missing: it must be text or a whole number, not null"),
        (math.nan, "is missing: it must be text or a whole number, not NaN"),
        (math.inf, "must be text or a whole number, not Infinity"),
        (7.5, "must be text or a whole number, not 7.5"),
        (1e300, "has lost digits"),
        (False, "not a boolean"),
        ([7], "not a list"),
    ],
)
def test_value_that_is_no_id_is_refused_by_name(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        to_id(value)


@given(JSON)
def test_text_is_never_a_missing_value_and_never_a_word_for_one(value: object) -> None:
    try:
        text = to_text(value)
    except ValueError:
        assert not isinstance(value, str)
        return
    assert value == text or (type(value) in (int, float) and float(text) == value)


@given(JSON)
def test_metadata_is_kept_so_that_it_can_be_read_again(value: object) -> None:
    text = to_metadata(value)
    if value is None or value != value:
        assert text is None
    elif isinstance(value, str):
        assert text == value
    elif isinstance(value, bool | list | dict):
        assert text is not None
        assert json.dumps(json.loads(text)).count("NaN") == 0
        if "NaN" not in json.dumps(value) and "Infinity" not in json.dumps(value):
            assert json.loads(text) == value


def test_kind_names_what_a_value_is() -> None:
    values: tuple[object, ...] = (1, 2.5, math.nan, -math.inf, "x", None, True, [], {})
    assert [kind(value) for value in values] == [
        "a number",
        "a number",
        "NaN",
        "Infinity",
        "text",
        "null",
        "a boolean",
        "a list",
        "an object",
    ]


@pytest.mark.parametrize("offset", ["", "+00:00", "-00:00", "+09:30", "-11:59", "+23:59", "-23:59", "+24:00"])
@pytest.mark.parametrize("day", ["2024-02-29", "2023-02-29", "0001-01-01", "9999-12-31", "0000-01-01"])
@pytest.mark.parametrize("clock", ["T12:30:59", " 00:00:00.123456", "T23:59:60", "T24:00:00"])
def test_a_time_is_read_the_same_by_the_short_way(day: str, clock: str, offset: str) -> None:
    def read(function: Callable[[str], object]) -> object:
        try:
            return function(f"{day}{clock}{offset}")
        except (ValueError, OverflowError):
            return None

    assert read(to_time) == read(values._iso)
