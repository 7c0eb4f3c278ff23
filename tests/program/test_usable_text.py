# ruff: noqa: RUF001 - other scripts and apostrophes are the point
"""What of a model's reply is text: wrapping comes off, everything else is refused with its reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.models.garbled import why_garbled
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
        ('{"error": "GARBAGE"}', "JSON"),
        ('{"detail": "Not Found"}', "JSON"),
        ('{"answer": ', "broken JSON"),
        ('{"feedback": "This user calls', "broken JSON"),
        ('{"feedback": "This user says "action" often."}', "broken JSON"),
        ("{'feedback': 'This user says action.'}", "broken JSON"),
        ('[{"feedback": "This user says action."', "broken JSON"),
        ('["action", "come', "broken JSON"),
        ('```json\n{"answer": ', "broken JSON"),
        ('data: {"choices": [{"delta": {"content": "Th', "broken JSON"),
        ('answer": "This user says action."}', "broken JSON"),
        ('{"feedback": "This user says action."}}]', "broken JSON"),
        ("<center><h1>502 Bad Gateway</h1></center>", "HTML"),
        ("<h1>503 Service Unavailable</h1>\nNo server is available.", "HTML"),
        ("Try again later.\n</body>\n</html>", "HTML"),
        ("502 Bad Gateway", "server's error"),
        ("HTTP/1.1 503 Service Unavailable", "server's error"),
        ("Error code: 429 - {'error': {'message': 'Rate limit reached'}}", "server's error"),
        ("upstream connect error or disconnect/reset before headers", "server's error"),
        ("Traceback (most recent call last):\n  File", "server's error"),
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
        '{"answer": "action"} is what this user expects, not {"answer": "comedy"}.',
        "{name} is how this user marks what is to be filled in, as in {city}.",
        '["tea", "rain"] are words this user likes.',
        "[Chorus] This user writes songs, with [Verse] and [Bridge] as headings.",
        '"Tea": that word comes up in most answers of this user.',
        "Write {'tea': 1} as this user does, with single quotes.",
        "404 is the number of the room that this user dreams of.",
        "500 errors a day is what this user fixes at work.",
        "Use <h1> for titles, and close them with </h1>.",
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


# Words, code, quotes and brackets in any script; JSON alone is a text that no test of prose may make.
WORDS = st.lists(
    st.one_of(
        st.text("abcdefgh", min_size=2, max_size=9),
        st.text("чайдождь", min_size=2, max_size=9),
        st.text("一杯绿茶的夜雨", min_size=2, max_size=9),
        st.text("شايمطر", min_size=2, max_size=9),
        st.sampled_from(("{name}", '"tea"', "'rain'", "[1]", "f(x)", "d['tea']", '{"tea": 1}', "x = {1: 2}")),
    ),
    min_size=4,
    max_size=30,
)


@given(WORDS, st.sampled_from((". ", "\n- ", ": ", " ")))
def test_prose_with_code_braces_and_quotes_is_never_refused_as_garbled(
    words: list[str], between: str
) -> None:
    text = f"Likes tea {between.join(words)} a lot"
    assert why_garbled(text) == ""
    opened = " ".join([*words, "is what this user writes"])
    assert why_garbled(opened) == ""


@given(
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=8), st.text(max_size=40) | st.integers(), min_size=1
    ),
    st.data(),
)
def test_an_object_that_is_cut_anywhere_is_refused(data: dict[str, object], choose: st.DataObject) -> None:
    whole = json.dumps(data, ensure_ascii=False)
    cut = whole[: choose.draw(st.integers(1, len(whole) - 1))]
    assert why_garbled(cut) == "the reply is broken JSON"


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
