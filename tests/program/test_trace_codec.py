"""Packed payloads and encoded times decode to the originals."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.tracing.server.codec import MIN_PASSAGE, dumps, iso, micros, pack, unpack

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
LONG = st.text(alphabet='ab"\\\n\x01é😀 ', min_size=MIN_PASSAGE, max_size=3 * MIN_PASSAGE)


class Blobs(list[str]):
    def intern(self, text: str) -> int:
        if text not in self:
            self.append(text)
        return self.index(text)


@given(VALUES, st.lists(LONG, max_size=4))
def test_unpack_reverses_pack(value: object, texts: list[str]) -> None:
    blobs = Blobs()
    text = dumps({"value": value, "texts": texts, "\x010\x01": texts})
    assert unpack(pack(text, blobs.intern), blobs.__getitem__) == text


def test_text_cannot_forge_a_reference_to_a_blob() -> None:
    blobs = Blobs(["the secret of another user"])
    text = dumps({"query": "\x010\x01" + "x" * MIN_PASSAGE})
    assert "secret" not in unpack(pack(text, blobs.intern), blobs.__getitem__)


def test_repeated_prompt_stores_only_the_new_step() -> None:
    blobs, persona = Blobs(), "You know this user. " * 20
    steps = [f"step {n}: " + "found something " * 20 for n in range(3)]
    for n in range(1, 4):
        pack(dumps({"system": persona, "user": "\n\n".join(steps[:n])}), blobs.intern)
    assert len(blobs) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "null"),
        (float("inf"), "null"),
        ({1: "é"}, '{"1":"é"}'),
        (object(), '"<object>"'),
        ({"when": datetime(2026, 1, 2, tzinfo=timezone.utc)}, '{"when":"2026-01-02T00:00:00Z"}'),
    ],
)
def test_unusual_values_become_json(value: object, text: str) -> None:
    assert dumps(value) == text


def test_half_of_a_surrogate_pair_is_repaired() -> None:
    text = dumps({"broken": "\ud800"})
    assert json.loads(text) == {"broken": "\ufffd"}
    assert text.isascii()


@pytest.mark.parametrize(
    "spelling",
    [
        "2026-01-02T03:04:05.600000+00:00",
        "2026-01-02T03:04:05.6Z",
        "2026-01-02T04:04:05.600+01:00",
        datetime(2026, 1, 2, 3, 4, 5, 600_000),  # noqa: DTZ001 - naive on purpose
        datetime(2026, 1, 2, 4, 4, 5, 600_000, timezone(timedelta(hours=1))),
        1767323045.6,
    ],
)
def test_every_format_of_a_time_gives_the_same_number(spelling: object) -> None:
    assert micros(spelling) == 1_767_323_045_600_000


@pytest.mark.parametrize("value", [None, True, "yesterday", {}])
def test_value_that_is_not_a_time_is_rejected(value: object) -> None:
    with pytest.raises(ValueError, match=r"not a time|Invalid isoformat"):
        micros(value)


@given(st.integers(-(10**16), 10**17))
def test_iso_times_round_trip(value: int) -> None:
    assert micros(iso(value)) == value
