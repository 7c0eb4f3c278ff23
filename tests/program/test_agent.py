"""The agent answers with its own persona, memory and tools; the loop enforces its limits."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from program.agent import PersonaAgent
from program.answers import Labels, Rating, Text
from program.errors import BudgetExceededError, ConfigError, PersonaError, UnparsableAnswerError
from program.loop import AgentSettings
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import Item, Task
from program.tools import ToolSet, default_tools
from program.tools.base import Tool
from program.usage import Budget, UsageTracker, track_usage

MUSIC = Task(
    name="music",
    question="Which music does this evening call for: jazz or rock?",
    answer=Labels(("jazz", "rock")),
    read_item=lambda item: Item(item["query"], item["response"]),
    read_query=str.strip,
    response_noun="music",
)


def memory(user: str = "ana", n: int = 3) -> EpisodicMemory:
    return EpisodicMemory(
        user,
        [
            Interaction(id=f"{user}-{i}", user_id=user, query=f"evening {i} of {user}", response="jazz")
            for i in range(n)
        ],
        # By words alone, "evening 7" and "evening 8" find the same in the same order.
        retrieval="bm25",
    )


def agent(
    tmp_path: Path, persona: str = "You know ana.", task: Task = MUSIC, user: str = "ana", **settings: Any
) -> PersonaAgent:
    tools = default_tools(tmp_path, wikipedia=False)
    return PersonaAgent.for_user(
        user, memory(user), tools, task=task, persona=persona, settings=AgentSettings(**settings)
    )


def call(tool: str, **arguments: Any) -> Mapping[str, Any]:
    return {"thought": "I wonder.", "action": {"tool": tool, **arguments}}


def finish(answer: Any = "jazz") -> Mapping[str, Any]:
    return call("finish", answer=answer)


def obedient(system: str, user: str) -> Mapping[str, Any] | str:
    """Search, read the profile, then finish; give only the answer if there is no `action` field."""
    if "`action`" not in user:
        return {"answer": "rock"}
    steps = user.count(" gave:\n")
    return [call("search_memory", query="evening"), call("read_profile"), finish()][min(steps, 2)]


def test_two_actions_and_finish_take_three_calls(tmp_path: Path) -> None:
    lm = scripted_lm(obedient)
    with dspy.context(lm=lm):
        prediction = agent(tmp_path)(query="tonight")
    assert prediction.answer == "jazz"
    assert [step.tool for step in prediction.steps] == ["search_memory", "read_profile"]
    assert [step.forced for step in prediction.steps] == ["", ""]
    assert len(lm.engine.prompts) == 3


def test_system_message_ends_with_the_persona_and_names_no_tools(tmp_path: Path) -> None:
    lm = scripted_lm(obedient)
    with dspy.context(lm=lm):
        agent(tmp_path, persona="You know ana.\n- likes jazz\n  - late")(query="tonight")
    for system, user in lm.engine.prompts:
        assert system.endswith("You know ana.\n- likes jazz\n  - late")
        assert "search_memory" not in system.replace('{"tool": "NAME"', "")
        assert "You know ana." not in user


def test_early_finish_is_replaced_by_a_search_and_then_the_profile(tmp_path: Path) -> None:
    lm = scripted_lm(lambda system, user: finish("rock"))
    with dspy.context(lm=lm):
        prediction = agent(tmp_path)(query="tonight")
    assert prediction.answer == "rock"
    assert [(s.tool, dict(s.arguments), s.forced) for s in prediction.steps] == [
        ("search_memory", {"query": "tonight"}, "too early"),
        ("read_profile", {}, "too early"),
    ]


def test_model_that_never_returns_json_raises_unparsable_answer(tmp_path: Path) -> None:
    lm = scripted_lm(lambda system, user: "I do not speak JSON")
    with (
        dspy.context(lm=lm),
        pytest.raises(UnparsableAnswerError, match="exactly one of: jazz, rock") as caught,
    ):
        agent(tmp_path)(query="tonight")
    assert caught.value.raw == "I do not speak JSON"
    # Two replaced actions, a third unreadable step without a replacement, the final answer.
    assert len(lm.engine.prompts) == 4


def test_label_outside_the_task_is_not_an_answer(tmp_path: Path) -> None:
    def reply(system: str, user: str) -> Mapping[str, Any]:
        return finish("Jazz") if "`action`" in user else {"answer": "jazz"}

    with dspy.context(lm=scripted_lm(reply)):
        prediction = agent(tmp_path)(query="tonight")
    assert prediction.answer == "jazz"
    assert [step.forced for step in prediction.steps] == ["unreadable", "unreadable"]


def test_repeated_call_is_replaced_once_and_then_ends_the_loop(tmp_path: Path) -> None:
    def reply(system: str, user: str) -> Mapping[str, Any]:
        return call("search_memory", query="tonight") if "`action`" in user else {"answer": "rock"}

    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        prediction = agent(tmp_path)(query="tonight")
    assert [(step.tool, step.forced) for step in prediction.steps] == [
        ("search_memory", ""),
        ("read_profile", "repeated"),
    ]
    assert prediction.answer == "rock"
    assert len(lm.engine.prompts) == 4


def test_search_with_a_known_observation_ends_the_loop(tmp_path: Path) -> None:
    def reply(system: str, user: str) -> Mapping[str, Any]:
        return (
            call("search_memory", query=f"evening {len(user)}") if "`action`" in user else {"answer": "rock"}
        )

    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        prediction = agent(tmp_path)(query="tonight")
    assert prediction.steps[1].observation == "(the same as in step 1)"
    assert len(prediction.steps) == 2
    assert len(lm.engine.prompts) == 3


def test_answer_is_forced_after_max_steps(tmp_path: Path) -> None:
    def reply(system: str, user: str) -> Mapping[str, Any]:
        number = user.count(" gave:\n")
        return call("search_memory", query=f"evening {number}") if "`action`" in user else {"answer": "rock"}

    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        prediction = agent(tmp_path, max_steps=3, k=1)(query="tonight")
    assert prediction.answer == "rock"
    assert len(prediction.steps) == 3
    assert len(lm.engine.prompts) == 4


def test_agent_without_tools_makes_one_call(tmp_path: Path) -> None:
    lm = scripted_lm(obedient)
    program = PersonaAgent(task=MUSIC, memory=memory(), persona="You know ana.", tools=ToolSet([]))
    with dspy.context(lm=lm):
        prediction = program(query="tonight")
    assert prediction.answer == "rock"
    assert len(lm.engine.prompts) == 1


def test_failing_tool_becomes_an_observation_and_the_loop_continues(tmp_path: Path) -> None:
    def broken(query: str) -> str:
        """Look somewhere."""
        raise OSError("the shelf fell down")

    def reply(system: str, user: str) -> Mapping[str, Any]:
        return [call("broken", query="x"), call("broken", query="y"), finish()][
            min(user.count(" gave:\n"), 2)
        ]

    program = PersonaAgent(task=MUSIC, memory=memory(), persona="P.", tools=ToolSet([Tool.of(broken)]))
    with dspy.context(lm=scripted_lm(reply)):
        prediction = program(query="tonight")
    assert prediction.answer == "jazz"
    assert prediction.steps[0].failed
    assert "OSError: the shelf fell down" in prediction.steps[0].observation


@pytest.mark.parametrize(
    ("answer", "raw", "read"),
    [(Rating(1, 5), 4, "4"), (Text(), " a headline ", "a headline"), (Labels(("[1]", "[2]")), "[2]", "[2]")],
)
def test_answer_is_typed_by_the_task(tmp_path: Path, answer: Any, raw: Any, read: str) -> None:
    task = replace(MUSIC, answer=answer, history_answer=Text())

    def reply(system: str, user: str) -> Mapping[str, Any]:
        return finish(raw)

    with dspy.context(lm=scripted_lm(reply)):
        assert agent(tmp_path, task=task)(query="q").answer == read


async def test_async_agent_makes_the_same_calls(tmp_path: Path) -> None:
    lm = scripted_lm(obedient)
    with dspy.context(lm=lm):
        prediction = await agent(tmp_path).acall(query="tonight")
    assert prediction.answer == "jazz"
    assert len(lm.engine.prompts) == 3


def test_tools_show_only_interactions_before_the_simulated_one(tmp_path: Path) -> None:
    lm = scripted_lm(obedient)
    with dspy.context(lm=lm):
        prediction = agent(tmp_path)(query="evening 1 of ana", before="ana-1")
    observations = "\n".join(step.observation for step in prediction.steps)
    assert "evening 0 of ana" in observations
    assert "evening 1 of ana" not in observations
    assert "evening 2 of ana" not in observations
    assert "answered 1 time" in observations


def test_model_outage_raises_instead_of_answering(tmp_path: Path) -> None:
    def reply(system: str, user: str) -> str:
        raise dspy.LMServerError("down")

    with dspy.context(lm=scripted_lm(reply)), pytest.raises(dspy.LMError):
        agent(tmp_path)(query="tonight")


def test_budget_stops_before_the_next_call(tmp_path: Path) -> None:
    lm = scripted_lm(obedient)
    with track_usage(UsageTracker(Budget(max_calls=2)), lm) as tracker, pytest.raises(BudgetExceededError):
        agent(tmp_path)(query="tonight")
    assert len(lm.engine.prompts) == 2
    assert tracker.total().calls == 2


def test_copies_share_the_memory_but_not_the_persona(tmp_path: Path) -> None:
    first = agent(tmp_path, persona="You know ana.")
    second = first.deepcopy()
    second.persona = "You know bo."
    third = copy.deepcopy(second)
    third.persona = "You know chi."
    assert (first.persona, second.persona, third.persona) == (
        "You know ana.",
        "You know bo.",
        "You know chi.",
    )
    assert first.context.memory is third.context.memory


def test_persona_survives_save_and_load(tmp_path: Path) -> None:
    program = agent(tmp_path, persona="You know ana.\nShe:\n  - likes jazz\n\n\n")
    program.save(tmp_path / "ana.json")
    other = agent(tmp_path, persona="Somebody else.")
    other.load(tmp_path / "ana.json")
    assert other.persona == program.persona == "You know ana.\nShe:\n  - likes jazz"


def test_empty_or_overlong_persona_is_rejected(tmp_path: Path) -> None:
    program = agent(tmp_path)
    with pytest.raises(PersonaError, match="empty"):
        program.persona = " \n "
    with pytest.raises(PersonaError, match="at most 4000"):
        program.persona = "x" * 4001
    assert program.persona == "You know ana."


def test_memory_of_another_user_is_rejected() -> None:
    with pytest.raises(ConfigError, match="`memory` belongs to user 'bo', not to 'ana'"):
        PersonaAgent.for_user("ana", memory("bo"), ToolSet([]), task=MUSIC)


def test_64_users_on_16_threads_and_asyncio_see_only_their_own_text(tmp_path: Path) -> None:
    users = [f"user{number:02d}x" for number in range(64)]
    programs = {user: agent(tmp_path, persona=f"You know {user}.", user=user) for user in users}
    lm = scripted_lm(obedient)

    def ask(user: str) -> str:
        return str(programs[user](query=f"a night for {user}").answer)

    async def ask_all() -> list[Any]:
        return list(await asyncio.gather(*(programs[u].acall(query=f"a night for {u}") for u in users)))

    with dspy.context(lm=lm), ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(copy_context().run, ask, user) for user in users * 3]
        assert [future.result() for future in futures] == ["jazz"] * 192
        assert len(asyncio.run(ask_all())) == 64
    assert len(lm.engine.prompts) == 256 * 3
    for prompt in map("".join, lm.engine.prompts):
        assert len({user for user in users if user in prompt}) == 1
