"""Signatures that differ in their instructions alone share everything else."""

from __future__ import annotations

import pickle
from typing import Literal

import cloudpickle
import dspy
import pytest

from program import scripted_lm
from program.models.adapter import program_adapter
from program.models.forms import SchemaAdapter
from program.signatures import Continue, acting, own_class


def kinds() -> list[type]:
    typed = Continue.with_updated_fields("answer", type_=Literal["tea", "coffee"], desc="one of two")
    return [Continue, typed, own_class(typed, "Be long."), acting(int)]


@pytest.mark.parametrize("signature", kinds())
def test_another_persona_gives_the_class_that_dspy_would_make(signature: type) -> None:
    ours, theirs = own_class(signature, "Be  brief.\n- tea"), signature.with_instructions("Be  brief.\n- tea")
    assert ours.equals(theirs)
    assert ours.instructions == theirs.instructions
    assert ours.__name__ == theirs.__name__
    assert list(ours.fields) == list(theirs.fields)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("signature", kinds())
def test_a_class_of_ones_own_can_be_changed_alone(signature: type) -> None:
    before = signature.instructions
    first, second = own_class(signature, "first"), own_class(signature, "second")
    first.instructions = "changed"
    assert (first.instructions, second.instructions, signature.instructions) == ("changed", "second", before)


def test_a_class_of_ones_own_does_not_grow_with_each_change() -> None:
    signature = kinds()[1]
    for number in range(50):
        signature = own_class(signature, f"Persona {number}.")
    assert len(signature.__mro__) == len(kinds()[2].__mro__)


def test_a_class_of_ones_own_is_saved_and_asked_like_any_other() -> None:
    signature = own_class(kinds()[1], "Be brief.")
    back = pickle.loads(cloudpickle.dumps(signature))
    assert back.equals(signature)
    with dspy.context(lm=scripted_lm(lambda system, user: {"answer": "tea"})), program_adapter():
        for kind in (signature, back):
            assert dspy.Predict(kind)(query="Which drink?").answer == "tea"


def test_users_with_the_same_outputs_share_the_schema_of_the_reply() -> None:
    lm = dspy.LM("openai/gpt-4o-mini", api_base="http://127.0.0.1:9/v1", api_key="none")
    adapter, formats = SchemaAdapter(), []
    typed = kinds()[1]
    for signature in (own_class(typed, "first"), own_class(typed, "second"), acting(int)):
        arguments: dict[str, object] = {}
        adapter._prepare_response_format(lm, arguments, signature)
        formats.append(arguments["response_format"])
    assert formats[0] is formats[1]
    assert formats[2] is not formats[0]
    assert adapter.parse(typed, '{"answer": "coffee"}') == {"answer": "coffee"}
