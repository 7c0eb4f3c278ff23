"""Adapters: plain text for a single text output, and the prefill of a rewrite."""

from __future__ import annotations

import dspy
import pytest

from optimizers.loss import UpdatePersona
from program.models.adapter import PrefillAdapter, SchemaAdapter, adapter_for, program_adapter
from program.models.embedded import EmbeddedLM
from program.models.scripted import scripted_lm

PERSONA = """\
You are the personal assistant of one user and answer exactly as this user would.

What is known about this user:
This user has answered 175 times between 2018-03-01 and 2018-05-18.
Most frequent answers: entertainment (148), sports (20), politics (4), crime (1).

Rules for using tools:
1. Think step by step about which information you still need.
2. You MUST use at least TWO tools before you answer."""


class Rewrite(dspy.Signature):  # type: ignore[misc]
    """You refine the system prompt of a personal agent."""

    current_prompt: str = dspy.InputField()
    feedback: str = dspy.InputField()
    new_prompt: str = dspy.OutputField(desc="the whole new prompt")


class Summary(dspy.Signature):  # type: ignore[misc]
    """Say who this user is."""

    current_prompt: str = dspy.InputField()
    summary: str = dspy.OutputField(desc="a sentence")


INPUTS = {"current_prompt": "Answer in French.", "feedback": "1. The user wrote English."}
MESSAGES = [
    {"role": "system", "content": "You refine the system prompt of a personal agent."},
    {
        "role": "user",
        "content": "Current prompt:\nAnswer in French.\n\nFeedback:\n1. The user wrote English.\n\n"
        "Now write the new prompt, and nothing else.",
    },
]


def test_rewrite_is_prefilled_with_its_heading() -> None:
    assert PrefillAdapter().format(Rewrite, [], INPUTS) == [
        *MESSAGES,
        {"role": "assistant", "content": "New prompt:\n"},
    ]


def test_only_a_rewrite_is_prefilled() -> None:
    assert SchemaAdapter().format(Rewrite, [], INPUTS) == MESSAGES
    roles = [part["role"] for part in PrefillAdapter().format(Summary, [], {"current_prompt": "x"})]
    assert roles == ["system", "user"]


@pytest.mark.parametrize("reply", ["New prompt:\nAnswer in English.", "Answer in English.\n"])
def test_prefilled_heading_is_not_part_of_the_rewrite(reply: str) -> None:
    assert PrefillAdapter().parse(Rewrite, reply) == {"new_prompt": "Answer in English."}


def test_only_models_that_support_prefill_get_the_prefill_adapter() -> None:
    assert isinstance(adapter_for(EmbeddedLM()), PrefillAdapter)
    assert not isinstance(adapter_for(scripted_lm(lambda *_: "")), PrefillAdapter)


def test_embedded_model_stops_before_the_next_heading() -> None:
    feedback = '1. The answer to this question is entertainment.\n\n2. "The answer is sports."'
    with dspy.context(lm=EmbeddedLM()), program_adapter():
        rewrite = dspy.Predict(UpdatePersona)(current_system_prompt=PERSONA, feedback=feedback)
    assert rewrite.new_system_prompt.startswith("You are the personal assistant of one user")
    assert "Feedback:" not in rewrite.new_system_prompt
