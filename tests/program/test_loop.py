"""The tool loop on its own, with plain functions for model and tools."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.answers import Labels
from program.errors import ConfigError, UnparsableAnswerError
from program.loop import NO_STEPS, AgentSettings, LoopResult, Step, Unreadable, render, run_loop
from program.sync import run_now
from program.tools.base import Tool
from program.tools.toolset import Observation, ToolSet


def search_memory(query: str) -> str:
    """Search the past."""
    return f"past of {query}"


def read_profile() -> str:
    """Read the profile."""
    return "likes jazz"


TOOLS = ToolSet([Tool.of(search_memory), Tool.of(read_profile)])


def run(
    actions: list[Any],
    *,
    tools: ToolSet = TOOLS,
    final: Any = "jazz",
    always_conclude: bool = False,
    observations: list[str] | None = None,
    **settings: Any,
) -> tuple[LoopResult, list[str]]:
    """Run the loop with scripted actions; also return the stage of each model call."""
    stages: list[str] = []
    texts = iter(observations or [])

    async def think(steps: str) -> Any:
        stages.append("think")
        action = actions[len(stages) - 1]
        return action if isinstance(action, Unreadable) else dspy.Prediction(thought="hm", action=action)

    async def use(action: Any) -> Observation:
        arguments = action.model_dump(exclude={"tool"})
        text = next(texts, f"text {len(stages)}")
        return Observation(tool=action.tool, arguments=arguments, text=text, failed=False, seconds=0.0)

    async def conclude(steps: str) -> Any:
        stages.append("conclude")
        return final if isinstance(final, Unreadable) else dspy.Prediction(answer=final)

    result = run_now(
        run_loop(
            "tonight",
            tools=tools,
            answer_type=Labels(("jazz", "rock")),
            settings=AgentSettings(**settings).for_persona(has_parts=False),
            think=think,
            use=use,
            conclude=conclude,
            always_conclude=always_conclude,
        )
    )
    return result, stages


def search(query: str) -> Any:
    return TOOLS.call("search_memory", query=query)


def finish(answer: str = "jazz") -> Any:
    return dspy.Prediction(tool="finish", answer=answer)


def test_finish_after_min_actions_needs_no_final_call() -> None:
    result, stages = run([search("a"), search("b"), finish("rock")])
    assert (result.answer, stages) == ("rock", ["think"] * 3)
    assert [step.call for step in result.steps] == ["search_memory(a)", "search_memory(b)"]


def test_always_conclude_replaces_the_answer_of_the_finish() -> None:
    result, stages = run([search("a"), search("b"), finish("rock")], always_conclude=True)
    assert (result.answer, stages) == ("jazz", ["think", "think", "think", "conclude"])


def test_zero_min_actions_accepts_the_first_finish() -> None:
    result, stages = run([finish("rock")], min_actions=0)
    assert (result.answer, result.steps, stages) == ("rock", (), ["think"])


def test_zero_max_steps_asks_only_for_the_final_answer() -> None:
    result, stages = run([], max_steps=0, min_actions=0)
    assert (result.answer, result.steps, stages) == ("jazz", (), ["conclude"])


def test_early_finish_without_a_replacement_ends_the_loop() -> None:
    def look_up(query: str) -> str:
        """Look up something."""
        return query

    result, stages = run([finish()], tools=ToolSet([Tool.of(look_up)]))
    assert (result.steps, stages) == ((), ["think", "conclude"])


def test_duplicate_observation_names_the_first_step_that_showed_it() -> None:
    result, stages = run([search("a"), search("b"), search("c")], observations=["one", "two", "one"])
    assert [step.observation for step in result.steps] == ["one", "two", "(the same as in step 1)"]
    assert stages == ["think", "think", "think", "conclude"]


def test_duplicate_observation_before_min_actions_continues() -> None:
    actions = [search("a"), search("b"), search("c"), finish()]
    result, _ = run(actions, observations=["one", "one", "two"], min_actions=3)
    assert [step.observation for step in result.steps] == ["one", "(the same as in step 1)", "two"]


def test_unreadable_final_answer_raises_with_the_raw_text() -> None:
    with pytest.raises(UnparsableAnswerError, match="the final answer is not exactly one of") as caught:
        run([], max_steps=0, min_actions=0, final=Unreadable("I cannot say"))
    assert caught.value.raw == "I cannot say"


def test_final_answer_outside_the_labels_raises() -> None:
    with pytest.raises(UnparsableAnswerError, match="'waltz'"):
        run([], max_steps=0, min_actions=0, final="waltz")


@given(
    st.lists(st.sampled_from(["a", "b", "finish", "unreadable"]), min_size=8, max_size=8), st.integers(0, 8)
)
def test_loop_stays_within_its_limits_for_any_model(script: list[str], max_steps: int) -> None:
    special = {"finish": finish(), "unreadable": Unreadable("?")}
    min_actions = min(2, max_steps)
    result, stages = run(
        [special.get(word) or search(word) for word in script], max_steps=max_steps, min_actions=min_actions
    )
    assert result.answer == "jazz"
    assert len(result.steps) <= max_steps
    assert len(stages) <= max_steps + 1
    calls = [step.call for step in result.steps]
    assert len(set(calls)) == len(calls), "no call runs twice"
    if "conclude" not in stages:
        assert len(result.steps) >= min_actions


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"min_actions": 6}, "`min_actions` must be between 0 and `max_steps`, got 6 and 5"),
        ({"min_actions": -1}, "got -1 and 5"),
        ({"max_steps": 1, "min_actions": 2}, "got 2 and 1"),
        ({"k": 0}, "`k` must be at least 1, got 0"),
        ({"item_chars": 19}, "`item_chars` must be at least 20, got 19"),
    ],
)
def test_settings_out_of_range_are_rejected(settings: dict[str, int], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        AgentSettings(**settings)  # type: ignore[arg-type]


def test_steps_render_as_numbered_calls_with_observations() -> None:
    one = Step(thought="", tool="search_memory", arguments={"query": "rain"}, observation="1. wet")
    two = Step(thought="", tool="read_profile", arguments={}, observation="likes sun")
    assert render([one, two]) == (
        "1. search_memory(query='rain') gave:\n1. wet\n\n2. read_profile() gave:\nlikes sun"
    )
    assert render([]) == NO_STEPS


def test_long_arguments_are_shortened_to_one_line() -> None:
    step = Step(thought="", tool="search_memory", arguments={"query": "very\n" + "x" * 200}, observation="")
    assert step.call == f"search_memory({'very ' + 'x' * 74}…)"
    assert len(step.call.splitlines()) == 1
