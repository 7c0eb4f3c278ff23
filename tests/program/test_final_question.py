from __future__ import annotations

from datetime import datetime, timezone

import dspy
import pytest

from program.agent import PersonaAgent
from program.errors import ConfigError
from program.final_question import can_be_examples, final_question
from program.loop import AgentSettings, Step
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.persona import Persona
from program.task import get_task

TASK = get_task("LaMP-2M")


def film(number: int, tag: str = "action") -> Interaction:
    return Interaction(
        id=str(number),
        user_id="ana",
        query=f"film {number}",
        response=tag,
        timestamp=datetime(2024, 1, number, tzinfo=timezone.utc),
    )


def search(*ids: int) -> Step:
    return Step(
        thought="",
        tool="search_memory",
        arguments={"query": "?"},
        observation="1. tag: action | film",
        interaction_ids=tuple(map(str, ids)),
    )


def demos(steps: list[Step], **settings: object) -> list[str]:
    shown = {str(number): film(number) for number in range(1, 9)}
    question = final_question(
        "Be brief.", TASK, "?", steps=steps, shown=shown, settings=AgentSettings(**settings)
    )
    return [demo["query"] for demo in question.demos]


def test_the_best_match_stands_next_to_the_query() -> None:
    assert demos([search(3, 1, 2)]) == ["film 2", "film 1", "film 3"]


def test_the_newest_stands_next_to_the_query_by_setting() -> None:
    assert demos([search(3, 1, 2)], last="newest") == ["film 1", "film 2", "film 3"]


def test_two_searches_show_their_best_matches_once_and_at_most_k_in_all() -> None:
    assert demos([search(3, 1, 2), search(4, 3, 5)], k=4) == ["film 2", "film 1", "film 4", "film 3"]


def test_only_interactions_that_may_be_seen_are_shown() -> None:
    assert demos([search(3, 99)]) == ["film 3"]


def test_search_results_are_not_told_twice_but_other_findings_stay() -> None:
    profile = Step(thought="", tool="read_profile", arguments={}, observation="Likes action.")
    question = final_question(
        "P", TASK, "?", steps=[search(1), profile], shown={"1": film(1)}, settings=AgentSettings()
    )
    assert "Likes action." in question.inputs["steps"]
    assert "film" not in question.inputs["steps"]
    alone = final_question("P", TASK, "?", steps=[search(1)], shown={"1": film(1)}, settings=AgentSettings())
    assert dict(alone.inputs) == {"query": "?"}


def test_findings_are_text_and_no_examples() -> None:
    question = final_question(
        "P",
        TASK,
        "?",
        steps=[search(1)],
        shown={"1": film(1)},
        settings=AgentSettings(history="findings"),
    )
    assert not question.demos
    assert "1. tag: action | film" in question.inputs["steps"]


def test_long_texts_are_cut_and_keep_their_lines() -> None:
    item = Interaction(id="1", user_id="ana", query="one\n  two " + "x" * 100, response="action")
    question = final_question(
        "P", TASK, "?", steps=[search(1)], shown={"1": item}, settings=AgentSettings(item_chars=20)
    )
    assert question.demos[0]["query"] == "one\n  two xxxxxxxxx…"


def test_ratings_are_numbers_in_examples() -> None:
    item = Interaction(id="1", user_id="ana", query="Good.", response="4")
    question = final_question(
        "P", get_task("LaMP-3"), "?", steps=[search(1)], shown={"1": item}, settings=AgentSettings()
    )
    assert question.demos[0]["answer"] == 4


def test_a_history_of_other_questions_is_shown_as_findings() -> None:
    assert not can_be_examples(get_task("LaMP-1"))
    assert can_be_examples(TASK)


@pytest.mark.parametrize("setting", [{"history": "demos"}, {"last": "oldest"}])
def test_an_unknown_form_is_refused(setting: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        AgentSettings(**setting)


def agent(*, uses_tools: bool) -> tuple[PersonaAgent, dspy.LM]:
    def reply(system: str, user: str) -> object:
        if "`action`" in user:
            return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
        return {"answer": "action"}

    lm = scripted_lm(reply)
    lm.uses_tools = uses_tools
    memory = EpisodicMemory("ana", [film(number) for number in range(1, 5)])
    settings = AgentSettings(min_actions=0)
    made = PersonaAgent.for_user(
        "ana", memory, task=TASK, persona=Persona(facts=("counts",)), settings=settings
    )
    return made, lm


def test_a_model_that_cannot_use_tools_answers_at_once_after_the_first_search() -> None:
    made, lm = agent(uses_tools=False)
    with dspy.context(lm=lm):
        assert made.calls_per_answer() == (1, 1)
        prediction = made(query="film 2")
    assert [step.forced for step in prediction.steps] == ["first"]
    assert prediction.steps[0].interaction_ids[0] == "2"
    assert len(lm.engine.conversations) == 1
    assert lm.engine.conversations[0].count("[[ ## query ## ]]") == 5


def test_a_model_that_uses_tools_goes_on_after_the_first_search_and_reads_examples() -> None:
    made, lm = agent(uses_tools=True)
    with dspy.context(lm=lm):
        assert made(query="film 2").answer == "action"
    assert len(lm.engine.conversations) == 2


def test_an_answer_can_be_given_again_from_earlier_steps_without_tool_calls() -> None:
    made, lm = agent(uses_tools=True)
    with dspy.context(lm=lm):
        first = made(query="film 4", before="4")
        again = made(query="film 4", before="4", steps=first.steps)
    assert again.steps == first.steps
    assert len(lm.engine.conversations) == 3
    assert lm.engine.conversations[1] == lm.engine.conversations[2]


def test_examples_and_facts_are_masked_like_the_memory() -> None:
    made, lm = agent(uses_tools=False)
    with dspy.context(lm=lm):
        made(query="film 3", before="3", exclude=["1"])
    prompt = lm.engine.conversations[0]
    assert prompt.count("[[ ## query ## ]]\nfilm") == 2
    assert "film 2" in prompt
    assert "film 1" not in prompt
    assert "film 4" not in prompt
    assert "answered 1 time" in prompt
