"""DSPy's look-ups for each call: made in the loop and once, with the same results."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import dspy
import pytest
from dspy.clients import capabilities, costs
from dspy.clients.model_metadata import model_info

from program.models.lookups import few_lookups


def whose_thread() -> str:
    return threading.current_thread().name


@pytest.fixture
def lm() -> dspy.LM:
    return dspy.LM("openai/gpt-4o-mini", api_base="http://127.0.0.1:9/v1", api_key="none", cache=False)


def test_a_look_up_that_was_made_before_stays_in_the_loop(
    lm: dspy.LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def _price_result(lm: dspy.LM) -> None:
        threads.append(whose_thread())

    _price_result.__module__ = "dspy.clients.execution"
    monkeypatch.setattr("program.models.lookups._known", set())

    async def look_up() -> list[str]:
        with few_lookups():
            for _ in range(3):
                await asyncio.to_thread(_price_result, lm)
            loop = asyncio.get_running_loop()
            return [
                await asyncio.to_thread(whose_thread),
                await loop.run_in_executor(None, partial(whose_thread)),
            ]

    others = asyncio.run(look_up())
    here = threading.current_thread().name
    assert threads[0] != here, "the first one may take long"
    assert threads[1:] == [here, here]
    assert here not in others, "other work stays in threads"


def test_what_a_look_up_raises_reaches_who_asked(lm: dspy.LM, monkeypatch: pytest.MonkeyPatch) -> None:
    def _target(lm: dspy.LM) -> None:
        raise ValueError("no route")

    _target.__module__ = "dspy.clients.engines.lm15_engine"
    monkeypatch.setattr("program.models.lookups._known", {("_target", lm.model)})

    async def look_up() -> None:
        with few_lookups():
            await asyncio.to_thread(_target, lm)

    with pytest.raises(ValueError, match="no route"):
        asyncio.run(look_up())


def test_the_look_ups_of_dspy_are_named_as_here(lm: dspy.LM) -> None:
    from dspy.clients import execution
    from dspy.clients.engines.lm15_engine import AsyncLM15Engine

    from program.models import lookups

    names = {
        (function.__module__, function.__name__)
        for function in (
            capabilities.capabilities,
            AsyncLM15Engine._target,
            execution._price_result,
            execution.prepare,
        )
    }
    assert names == lookups._LOOKUPS


@pytest.mark.parametrize("model", ["gpt-4o-mini", "a-model-of-ones-own"])
def test_a_price_is_the_same_and_everything_is_as_before_after_the_block(model: str) -> None:
    async def look_up() -> list[object]:
        loop = asyncio.get_running_loop()
        with few_lookups():
            with few_lookups():
                inside = [costs.model_info("openai-chat", model) for _ in range(2)]
            assert "run_in_executor" in vars(loop), "the block around it goes on"
        assert "run_in_executor" not in vars(loop)
        return inside

    assert asyncio.run(look_up()) == [model_info("openai-chat", model)] * 2
    assert costs.model_info is capabilities.model_info is model_info
