# ruff: noqa: RUF001 - other scripts and apostrophes are the point
"""What of a model's reply is text: wrapping comes off, everything else is refused with its reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.models.usable_text import UnusableTextError, is_refusal, usable_text

PERSONA = "You help someone who likes tea. Use two tools before you answer."


@pytest.mark.parametrize(
    "reply",
    [
        PERSONA,
        f"<think>I should mention coffee, no.</think>\n\n{PERSONA}",
        f"<THINKING>\nlong\n\nthoughts\n</THINKING>{PERSONA}",
        f"<think>one</think><think>two</think>\n{PERSONA}",
        f"the opening tag is missing here</think>\n{PERSONA}",
        f"◁think▷hm◁/think▷{PERSONA}",
        f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{PERSONA}",
        f"{PERSONA}<|im_end|>",
        f"```\n{PERSONA}\n```",
        f"```text\n{PERSONA}\n```",
        f"Here is the new system prompt:\n\n```markdown\n{PERSONA}\n```\n\nLet me know if you want changes!",
        f"Sure! Here is the rewritten system prompt:\n\n{PERSONA}",
        f"Certainly!\n\n{PERSONA}",
        f"Here's the updated persona:\n{PERSONA}\n\nI hope this helps!",
        f'{{"new_system_prompt": "{PERSONA}"}}',
        f'```json\n{{"persona": "{PERSONA}"}}\n```',
        f"\ufeff{PERSONA}\x00",
    ],
)
def test_what_is_around_a_text_comes_off(reply: str) -> None:
    assert usable_text(reply, field="new_system_prompt") == PERSONA


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("<think>only thoughts</think>", "empty"),
        ("<think>cut in the middle of", "only thoughts"),
        ("None", "the word 'None'"),
        ("n/a", "the word 'n/a'"),
        ("[" * 60_000, "repeats one character"),
        ("null", "the word 'null'"),
        ("I'm sorry, but I can't assist with that.", "refused"),
        ("I cannot help with this request.", "refused"),
        ("As an AI language model, I am unable to provide personal advice.", "refused"),
        ("Unfortunately, I can’t comply with that.", "refused"),
        ("<!DOCTYPE html>\n<html><body><h1>502 Bad Gateway</h1></body></html>", "HTML"),
        ("<html>\r\n<head><title>504 Gateway Time-out</title></head>", "HTML"),
        ('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "HTML"),
        ('{"error": {"message": "overloaded", "type": "server_error"}}', "JSON"),
        ('[{"a": 1}]', "JSON"),
        ("\ufffd\ufffd\ufffd\ufffdabc\ufffd\ufffd", "cannot be decoded"),
        ("}}}}]]]]((((&&&&####", "not language"),
        ("the " * 200, "repeats one word"),
        ("You like tea.\n" * 40, "repeats"),
        ("ok " + "a" * 300, "repeats one character"),
    ],
)
def test_what_is_no_text_is_refused_with_its_reason(reply: str, reason: str) -> None:
    with pytest.raises(UnusableTextError, match=reason):
        usable_text(reply)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't make it tonight. Shall we meet on Friday?",
        "Here is what this user likes: tea, rain and long books.",
        "чай с мёдом",
        "一杯绿茶",
        "شاي بالنعناع",
        "ชาเขียว",
        "Use this:\n\n```python\nprint('tea')\n```\n\nand this:\n\n```python\nprint('cake')\n```",
        "1. Prefer tea.\n2. Answer in one line.\n   - indented",
        "<b>Bold</b> is how this user writes.",
        "The user said: I cannot help with dinner plans, and laughed.",
    ],
)
def test_real_text_is_not_changed(text: str) -> None:
    assert usable_text(text) == text


@pytest.mark.parametrize("answer", ["🍵", "4", "N/A", "[1]", "?", "none"])
def test_a_short_answer_need_not_be_prose(answer: str) -> None:
    assert usable_text(answer, prose=False) == answer


@given(st.text(max_size=300))
def test_any_reply_gives_a_clean_text_or_a_reason(reply: str) -> None:
    for prose in (True, False):
        try:
            text = usable_text(reply, prose=prose)
        except UnusableTextError:
            continue
        else:
            assert text == text.strip()
            assert text
            assert "\x00" not in text
            text.encode("utf-8")


def test_a_long_text_that_begins_like_a_refusal_is_not_one() -> None:
    assert not is_refusal("I cannot help but notice that " + "this user likes long stories. " * 30)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("None", "the word 'None'"),
        ("null", "the word 'null'"),
        ("[object Object]", "the word"),
        ("\ufffd\ufffd}}}}]]]\ufffd&&&&", "cannot be decoded"),
        ("[" * 100, "repeats one character"),
    ],
)
def test_a_missing_value_and_noise_are_no_answers_either(answer: str, reason: str) -> None:
    with pytest.raises(UnusableTextError, match=reason):
        usable_text(answer, prose=False)


@pytest.mark.parametrize("answer", ["none", "None.", "N/A", "👍", "7", "?!", "-" * 60])
def test_what_a_user_might_say_is_an_answer(answer: str) -> None:
    assert usable_text(answer, prose=False) == answer
