"""The scripted model behaves like any other model of DSPy."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from dspy import lm15

from program.models.scripted import scripted_lm
from program.usage import UsageTracker, track_usage


def test_prompts_are_recorded_in_order() -> None:
    lm = scripted_lm(lambda system, user: user.upper())
    assert lm("first") == ["FIRST"]
    lm(lm15.Request(model=lm.model, system="Be short.", messages=(lm15.Message.user("second"),)))
    assert lm.engine.prompts == [("", "first"), ("Be short.", "second")]


def test_reply_sees_the_last_user_message() -> None:
    lm = scripted_lm(lambda system, user: user)
    user, assistant = lm15.Message.user, lm15.Message.assistant
    request = lm15.Request(model=lm.model, messages=(user("one"), assistant("two"), user("three")))
    assert lm(request).message.text == "three"


def test_mapping_is_sent_as_json() -> None:
    lm = scripted_lm(lambda system, user: {"answer": "ü", "stars": 4})
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        prediction = dspy.Predict("query -> answer, stars: int")(query="q")
    assert (prediction.answer, prediction.stars) == ("ü", 4)


def test_exception_of_the_reply_is_an_lm_error() -> None:
    def reply(system: str, user: str) -> str:
        raise RuntimeError("out of script")

    lm = scripted_lm(reply)
    with pytest.raises(dspy.LMError, match="out of script"):
        lm("hello")
    assert lm.engine.prompts == [("", "hello")]


def test_each_model_has_its_own_name_and_prompts() -> None:
    first, second = scripted_lm(lambda *_: "1"), scripted_lm(lambda *_: "2")
    assert first.model != second.model
    assert (first("x"), second("x")) == (["1"], ["2"])
    assert len(first.engine.prompts) == len(second.engine.prompts) == 1


def test_async_calls_share_the_recorded_prompts() -> None:
    lm = scripted_lm(lambda system, user: user)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(lm.acall(str(number)) for number in range(5)))

    assert asyncio.run(ask()) == [[str(number)] for number in range(5)]
    assert sorted(user for _, user in lm.engine.prompts) == list("01234")


def test_usage_counts_a_token_for_four_characters() -> None:
    with track_usage(UsageTracker(), scripted_lm(lambda *_: "y" * 8)) as tracker:
        dspy.settings.lm("x" * 40)
    usage = tracker.total()
    assert (usage.calls, usage.input_tokens, usage.output_tokens) == (1, 11, 3)
