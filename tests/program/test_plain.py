"""Dataclasses from plain JSON data, with the first damaged field named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.plain import FieldError, decode


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Whole:
    kind: Literal["a", "b"]
    count: int
    part: Part | None = None
    parts: Sequence[Part] = ()
    by_name: Mapping[str, Part] = field(default_factory=dict)
    flag: bool = False
    rest: Any = None


GOOD = {"kind": "a", "count": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": None}, "field `kind` must be one of a, b"),
        ({"kind": ["a"]}, "field `kind` must be one of a, b"),
        ({"count": "2"}, "field `count` must be a whole number, not text"),
        ({"count": True}, "field `count` must be a whole number, not a boolean"),
        ({"count": 2.0}, "field `count` must be a whole number, not a number"),
        ({"count": 10**30}, "field `count` is too large"),
        ({"part": []}, "field `part` must be an object, not a list"),
        ({"part": {}}, "field `part.name` is missing"),
        ({"part": {"name": 3}}, "field `part.name` must be text, not a number"),
        ({"part": {"name": "x", "weight": float("nan")}}, "field `part.weight` must be a number, not NaN"),
        ({"part": {"name": "x", "weight": 1e300}}, "field `part.weight` is too large"),
        ({"parts": None}, "field `parts` must be a list, not null"),
        ({"parts": [{"name": "x"}, {"name": None}]}, "field `parts[1].name` must be text, not null"),
        ({"by_name": []}, "field `by_name` must be an object, not a list"),
        (
            {"by_name": {"z": {"name": "x", "weight": "1"}}},
            "field `by_name.z.weight` must be a number, not text",
        ),
        ({"flag": 1}, "field `flag` must be true or false, not a number"),
    ],
)
def test_first_damaged_field_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError) as caught:
        decode(Whole, GOOD | changes)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_other_value_than_an_object_is_refused(value: object) -> None:
    with pytest.raises(FieldError, match=r"^must be an object, not "):
        decode(Whole, value)


def test_missing_field_is_named_and_unknown_one_is_ignored_unless_strict() -> None:
    with pytest.raises(FieldError, match="field `count` is missing"):
        decode(Whole, {"kind": "a"})
    assert decode(Whole, GOOD | {"new": 1}) == Whole(kind="a", count=2)
    with pytest.raises(FieldError, match="field `new` is unknown"):
        decode(Whole, GOOD | {"new": 1}, strict=True)
    with pytest.raises(FieldError, match=r"field `part\.new` is unknown"):
        decode(Whole, GOOD | {"part": {"name": "x", "new": 1}}, strict=True)


PARTS = st.builds(Part, name=st.text(), weight=st.floats(-1e9, 1e9))


@given(
    st.builds(
        Whole,
        kind=st.sampled_from(["a", "b"]),
        count=st.integers(-(2**53), 2**53),
        part=st.none() | PARTS,
        parts=st.lists(PARTS, max_size=3),
        by_name=st.dictionaries(st.text(), PARTS, max_size=3),
        flag=st.booleans(),
        rest=st.none() | st.integers() | st.lists(st.text()),
    )
)
def test_plain_data_round_trip(whole: Whole) -> None:
    assert decode(Whole, asdict(whole), strict=True) == whole


def test_type_without_a_rule_is_a_mistake_of_ours() -> None:
    @dataclass
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="no rule for"):
        decode(Odd, {"value": 1})
