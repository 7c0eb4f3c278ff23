"""Adapters: plain text for a single text output, and the prefill of a rewrite."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError

from optimizers.loss import UpdatePersona
from program.models.adapter import ProgramAdapter, adapter_for, program_adapter
from program.models.embedded import EmbeddedLM
from program.models.forms import MarkerAdapter, PrefillAdapter, SchemaAdapter
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
    assert isinstance(ProgramAdapter().form_for(EmbeddedLM()), PrefillAdapter)
    assert not isinstance(ProgramAdapter().form_for(scripted_lm(lambda *_: "")), PrefillAdapter)


def test_embedded_model_stops_before_the_next_heading() -> None:
    feedback = '1. The answer to this question is entertainment.\n\n2. "The answer is sports."'
    with dspy.context(lm=EmbeddedLM()), program_adapter():
        rewrite = dspy.Predict(UpdatePersona)(current_system_prompt=PERSONA, feedback=feedback)
    assert rewrite.new_system_prompt.startswith("You are the personal assistant of one user")
    assert "Feedback:" not in rewrite.new_system_prompt


class Rate(dspy.Signature):  # type: ignore[misc]
    """You know one user."""

    film: str = dspy.InputField(desc="a film")
    stars: Literal[1, 2, 3] = dspy.OutputField(desc="the user's rating")
    why: str = dspy.OutputField(desc="one reason")


def test_json_prompt_describes_fields_first_and_ends_with_the_persona() -> None:
    system, user = SchemaAdapter().format(Rate, [], {"film": "A robot dreams."})
    assert system["content"] == (
        "You are given:\n- film: a film\n\n"
        "Reply with one JSON object with these fields, in this order:\n"
        "- stars: the user's rating\n- why: one reason\n\nYou know one user."
    )
    assert user["content"] == (
        "[[ ## film ## ]]\nA robot dreams.\n\nReply with a JSON object with `stars`, `why`."
    )


def test_system_message_follows_the_instructions_of_each_signature() -> None:
    adapter = SchemaAdapter()
    messages = [
        adapter.format_system_message(Rate.with_instructions(persona)) for persona in ("Ann.", "Bob.", "Ann.")
    ]
    assert [message.rpartition("\n")[2] for message in messages] == ["Ann.", "Bob.", "Ann."]


def test_json_is_parsed_by_type() -> None:
    fields = SchemaAdapter().parse(Rate, '{"stars": 2, "why": "slow"}')
    assert fields == {"stars": 2, "why": "slow"}


@pytest.mark.parametrize(
    "completion", ["not json", '{"stars": 9, "why": "x"}', '{"stars": 2}', '["stars", 2]', ""]
)
def test_json_outside_the_schema_raises_parse_error(completion: str) -> None:
    with pytest.raises(AdapterParseError):
        SchemaAdapter().parse(Rate, completion)


@pytest.mark.parametrize("adapter", [SchemaAdapter(), PrefillAdapter(), MarkerAdapter()])
@pytest.mark.parametrize("completion", ["", " \n"])
def test_empty_text_raises_parse_error(adapter: Any, completion: str) -> None:
    with pytest.raises(AdapterParseError, match="the text is empty"):
        adapter.parse(Rewrite, completion)


def test_prefilled_heading_alone_is_an_empty_text() -> None:
    with pytest.raises(AdapterParseError, match="the text is empty"):
        PrefillAdapter().parse(Rewrite, "New prompt:\n")


def test_heading_inside_a_rewrite_stays() -> None:
    text = "Answer briefly.\nNew prompt:\nnever repeat this."
    assert PrefillAdapter().parse(Rewrite, text) == {"new_prompt": text}


def test_unparsable_reply_is_not_requested_again_in_another_format() -> None:
    lm = scripted_lm(lambda system, user: "no markers here")
    with dspy.context(lm=lm, adapter=MarkerAdapter()), pytest.raises(AdapterParseError):
        dspy.Predict(Rate)(film="A robot dreams.")
    assert len(lm.engine.prompts) == 1


def test_inputs_that_are_not_text_are_formatted_by_dspy() -> None:
    signature = dspy.Signature("films: list[str] -> stars: int, why: str")
    content = SchemaAdapter().format_user_message_content(signature, {"films": ["a", "b"]})
    assert "[[ ## films ## ]]" in content
    assert '["a", "b"]' in content or "«a»" in content


@pytest.mark.parametrize(
    ("attributes", "adapter"),
    [
        ({}, MarkerAdapter),
        ({"supports_response_schema": True}, SchemaAdapter),
        ({"supports_response_schema": True, "supports_prefill": True}, PrefillAdapter),
    ],
)
def test_adapter_depends_on_the_abilities_of_the_model(attributes: dict[str, bool], adapter: type) -> None:
    lm = type("Model", (), {"model": "m", "kwargs": {}, **attributes})()
    assert type(ProgramAdapter().form_for(lm)) is adapter


def test_configured_adapter_takes_precedence_and_the_context_ends() -> None:
    own = dspy.ChatAdapter()
    with dspy.context(lm=scripted_lm(lambda *_: ""), adapter=own):
        assert adapter_for(dspy.settings.lm).form_for(dspy.settings.lm) is own
    with dspy.context(lm=scripted_lm(lambda *_: "")):
        with program_adapter():
            assert isinstance(dspy.settings.adapter, ProgramAdapter)
            assert isinstance(dspy.settings.adapter.form_for(dspy.settings.lm), SchemaAdapter)
        assert dspy.settings.adapter is None
