"""A persona's text: stable under DSPy, not empty, not too long."""

from __future__ import annotations

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.answers import Labels
from program.errors import PersonaError
from program.memory.interaction import Interaction
from program.memory.semantic import Profile, count_facts
from program.persona import GENERIC, initial_persona, normalize, validate_persona

TEXTS = st.text(st.sampled_from("ab -\n\t  •"), min_size=1, max_size=80)


@given(TEXTS)
def test_normalized_text_is_stable_and_equals_what_dspy_reads_back(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    if once:
        assert dspy.Signature("a -> b").with_instructions(once).instructions == once


def test_initial_persona_has_the_profile_and_the_rule_of_two_tools() -> None:
    text = initial_persona(Profile(facts=count_facts([], None), prose="Likes old films."))  # type: ignore[arg-type]
    assert "Likes old films." in text
    assert "at least TWO tools" in text
    assert normalize(text) == text


def test_initial_persona_omits_the_latest_answers() -> None:
    history = [Interaction(id=str(n), user_id="u", query="q", response=r) for n, r in enumerate("aab")]
    text = initial_persona(Profile(facts=count_facts(history, Labels(("a", "b")))))
    assert "a (2), b (1)" in text
    assert "Latest" not in text


def test_generic_prompt_is_a_valid_persona() -> None:
    assert validate_persona(GENERIC) == GENERIC


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_empty_persona_is_rejected(text: str) -> None:
    with pytest.raises(PersonaError, match="must not be empty"):
        validate_persona(text)


def test_length_limit_applies_to_the_normalized_text() -> None:
    assert validate_persona("x" * 10 + "   ", max_chars=10) == "x" * 10
    with pytest.raises(PersonaError, match="at most 10 characters, this one has 11"):
        validate_persona("x" * 11, max_chars=10)
