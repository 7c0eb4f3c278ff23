"""Tests of the content policy: no user text passes unless it may."""

from __future__ import annotations

import enum
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.errors import ConfigError
from program.tracing.content import ContentPolicy, installation_key, redact_secrets

KEY = b"k" * 32
FULL = ContentPolicy(content="full", key=KEY, redact=None)
SECRET = "the secret words of a user"


@dataclass
class Step:
    text: str
    score: float


class Color(enum.Enum):
    RED = "red"


NESTED = st.recursive(
    st.just(SECRET) | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.sampled_from(["query", "answer", "text", "persona"]), inner, max_size=3)
        | st.builds(Step, text=inner, score=st.just(0.5))  # type: ignore[arg-type]
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("content", ["none", "hash"])
@given(value=NESTED)
def test_nested_text_is_replaced_unless_the_content_is_full(content: Any, value: Any) -> None:
    policy = ContentPolicy(content=content, key=KEY)
    cleaned = json.dumps(policy.clean({"inputs": value}))
    assert "secret" not in cleaned
    assert json.dumps(FULL.clean({"inputs": value})).count(SECRET) == cleaned.count("<text: 26 characters")


@given(value=NESTED)
def test_cleaning_twice_changes_nothing(value: Any) -> None:
    once = FULL.clean(value)
    assert FULL.clean(once) == once


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("full", "Which tea?"),
        ("none", "<text: 10 characters>"),
    ],
)
def test_text_is_stored_as_the_content_says(content: Any, text: str) -> None:
    assert ContentPolicy(content=content, key=KEY).clean({"query": "Which tea?"}) == {"query": text}


def test_equal_texts_have_equal_fingerprints() -> None:
    policy = ContentPolicy(content="hash", key=KEY)
    first, same, other = policy.clean(["tea", "tea", "eat"])
    assert first == same != other
    assert first.startswith("<text: 3 characters, #")


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ({"score": 1.0, "accept": True, "n": None}, {"score": 1.0, "accept": True, "n": None}),
        ({"reason": "agreement rose"}, {"reason": "agreement rose"}),
        ({"reason": "x" * 201}, {"reason": "<text: 201 characters>"}),
        ({"probabilities": {"my answer": 0.9}}, {"probabilities": "<1 entries>"}),
        ({"persona": "weave:///a/b/object/persona:v1"}, {"persona": "weave:///a/b/object/persona:v1"}),
        ({"kind": Color.RED}, {"kind": "red"}),
        ({"day": date(2026, 1, 2)}, {"day": "2026-01-02"}),
        ({"class": Step}, {"class": "<Step>"}),
        ({"tags": ("a",)}, {"tags": ["<text: 1 characters>"]}),
        ({"lm": dspy.LM("openai/gpt", api_key="k")}, {"lm": {"model": "openai/gpt"}}),
        ({1: 2}, {"1": 2}),
    ],
)
def test_numbers_ids_and_own_words_are_stored_without_content(value: Any, cleaned: Any) -> None:
    assert ContentPolicy(content="none", key=KEY).clean(value) == cleaned


def test_deep_values_are_cut_off() -> None:
    deep: Any = "bottom"
    for _ in range(40):
        deep = [deep]
    assert "bottom" not in json.dumps(FULL.clean(deep))
    assert json.dumps(FULL.clean(deep)).count("[") == 16


@pytest.mark.parametrize("content", ["none", "hash"])
def test_user_id_is_a_pseudonym_unless_the_content_is_full(content: Any) -> None:
    policy = ContentPolicy(content=content, key=KEY)
    assert policy.clean({"user_id": "ana"}) == {"user_id": policy.pseudonym("ana")}
    assert FULL.clean({"user_id": "ana"}) == {"user_id": "ana"}


def test_errors_keep_their_type_and_lose_message_and_traceback() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        stored = json.loads(ContentPolicy(content="none", key=KEY).error(error))
        full = json.loads(FULL.error(error))
    assert stored == {"type": "ValueError", "message": "<text: 26 characters>", "traceback": ""}
    assert full["message"] == SECRET
    assert "test_errors_keep_their_type" in full["traceback"]


def test_unknown_content_is_rejected() -> None:
    with pytest.raises(ConfigError, match="`content` must be none, hash or full, got 'some'"):
        ContentPolicy(content="some", key=KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("ana.b+c@mail.example.org!", "[redacted]!"),
        ("key sk-0123456789abcdef0123", "key [redacted]"),
        ("ghp_0123456789abcdefABCD", "[redacted]"),
        ("Authorization: Bearer abcdefghijklmnop.qr==", "Authorization: [redacted]"),
        ("card 4111-1111-1111-1111", "card [redacted]"),
        ("see @ana at 10:30 on 2026-01-02", "see @ana at 10:30 on 2026-01-02"),
        ("task-sk-short and sk-8", "task-sk-short and sk-8"),
        ("", ""),
    ],
)
def test_redaction_removes_secrets_and_nothing_else(text: str, redacted: str) -> None:
    assert redact_secrets(text) == redacted


def test_installation_key_is_private_and_the_same_for_all(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: installation_key(home), range(32)))
    assert [len(key) for key in keys] == [32]
    assert stat.S_IMODE((home / "trace.key").stat().st_mode) == 0o600
    assert [file.name for file in home.iterdir()] == ["trace.key"]
