import asyncio
import copy
import json
import threading
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from pydantic import TypeAdapter, ValidationError

from program.errors import ConfigError
from program.memory.base import Before
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.tools import Tool, ToolContext, ToolError, ToolSet, default_tools
from program.tools.read_profile import read_profile
from program.tools.search_memory import search_memory


def watched(number: int, query: str, tag: str) -> Interaction:
    when = datetime(2015, 3, number, tzinfo=timezone.utc)
    return Interaction(id=f"i{number}", user_id="ann", query=query, response=tag, timestamp=when)


MEMORY = EpisodicMemory(
    "ann",
    [
        watched(1, "a robot\n falls in love", "sci-fi"),
        watched(2, "a cook opens a restaurant", "comedy"),
        watched(3, "a robot hunts androids " + "x" * 50, "dystopia"),
    ],
)


def no_profile(before: Before) -> Profile:
    return Profile(facts=Facts(interactions=0))


CONTEXT = ToolContext(memory=MEMORY, profile=no_profile, response_noun="tag", max_chars=30)


def add(left: int, right: int = 1) -> int:
    """Add two numbers.

    This line is for people.
    """
    return left + right


def breaks(query: str) -> str:
    """Break."""
    raise ValueError("no\nsuch thing " + "y" * 300)


def gives_up(query: str) -> str:
    """Give up."""
    raise ToolError("Nothing is known about that. Go on.")


async def waits(query: str) -> str:
    """Wait a moment."""
    await asyncio.sleep(0)
    return f"waited for {query}"


def which_thread() -> str:
    """Say which thread runs this."""
    return threading.current_thread().name


TOOLS = ToolSet([Tool.of(tool) for tool in (search_memory, add, breaks, gives_up, waits)], max_chars=400)


def test_memory_search_shows_number_date_response_and_request() -> None:
    assert search_memory(replace(CONTEXT, k=2), "robot") == (
        "1. 2015-03-03 tag: dystopia | a robot hunts androids xxxxxx…\n"
        "2. 2015-03-01 tag: sci-fi | a robot falls in love"
    )


def test_memory_search_without_dates_shows_none() -> None:
    memory = EpisodicMemory("ann", [Interaction(id="1", user_id="ann", query="q", response="4")])
    assert search_memory(replace(CONTEXT, memory=memory), "x") == "1. tag: 4 | q"


def test_memory_search_keeps_to_the_limits_of_its_context() -> None:
    assert "dystopia" not in search_memory(replace(CONTEXT, before="i3"), "robot")
    assert "sci-fi" not in search_memory(replace(CONTEXT, exclude={"i1"}), "robot")


def test_no_user_id_reaches_an_observation() -> None:
    seen = TOOLS.run(TOOLS.call("search_memory", query="robot"), replace(CONTEXT, before="unknown"))
    assert seen.text == "search_memory failed: ConfigError: this memory has no interaction 'unknown'"
    assert "ann" not in TOOLS.run(TOOLS.call("search_memory", query="robot"), CONTEXT).text


def test_memory_search_says_when_nothing_is_found() -> None:
    assert (
        search_memory(replace(CONTEXT, before="i1"), "robot") == "No past interaction of this user was found."
    )


def test_profile_is_read_as_it_stood_before() -> None:
    def profile(before: Before) -> Profile:
        return Profile(facts=Facts(interactions=7), prose=f"As of {before}.")

    text = read_profile(replace(CONTEXT, profile=profile, before="i3"))
    assert "7" in text
    assert "As of i3." in text


def test_render_is_one_line_for_each_tool() -> None:
    assert ToolSet([Tool.of(add), Tool.of(which_thread)]).render() == (
        "add(left: int, right: int): Add two numbers.\nwhich_thread(): Say which thread runs this."
    )


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two tools are called `add`"):
        ToolSet([Tool.of(add), Tool.of(add)])


def test_an_argument_called_tool_is_refused() -> None:
    def use(tool: str) -> str:
        """Use a tool."""
        return tool

    with pytest.raises(ConfigError, match="tool `use`: an argument cannot be called `tool`"):
        ToolSet([Tool.of(use)])


def test_actions_are_told_apart_by_their_tool() -> None:
    adapter = TypeAdapter(TOOLS.action_type(Literal["x", "y"]))
    call = adapter.validate_python({"tool": "add", "left": 2})
    assert isinstance(call, TOOLS.call_models["add"])
    assert call.model_dump() == {"tool": "add", "left": 2, "right": 1}
    assert adapter.validate_python({"tool": "finish", "answer": "y"}).model_dump() == {
        "tool": "finish",
        "answer": "y",
    }


@pytest.mark.parametrize(
    "action",
    [
        {"tool": "finish", "answer": "z"},
        {"tool": "finish"},
        {"tool": "fly"},
        {"tool": "add"},
        {"tool": "add", "left": 1, "why": "because"},
        {"tool": "search_memory", "query": "q", "context": "other"},
    ],
)
def test_an_action_that_fits_nothing_is_refused(action: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TOOLS.action_type(Literal["x", "y"])).validate_python(action)


def test_action_types_are_made_once_for_each_answer() -> None:
    assert TOOLS.action_type(str) is TOOLS.action_type(str)
    assert TOOLS.action_type(Literal[1, 2]) is TOOLS.action_type(Literal[1, 2])
    assert TOOLS.action_type(str) is not TOOLS.action_type(Literal[1, 2])


def test_schema_is_an_any_of_without_titles_or_further_fields() -> None:
    tools = ToolSet([Tool.of(search_memory)])
    assert TypeAdapter(tools.action_type(Literal[1, 2])).json_schema() == {
        "anyOf": [{"$ref": "#/$defs/SearchMemory"}, {"$ref": "#/$defs/Finish"}],
        "$defs": {
            "SearchMemory": {
                "type": "object",
                "properties": {
                    "tool": {"const": "search_memory", "type": "string"},
                    "query": {"type": "string"},
                },
                "required": ["tool", "query"],
                "additionalProperties": False,
            },
            "Finish": {
                "type": "object",
                "properties": {
                    "tool": {"const": "finish", "type": "string"},
                    "answer": {"enum": [1, 2], "type": "integer"},
                },
                "required": ["tool", "answer"],
                "additionalProperties": False,
            },
        },
    }


def test_dspy_reads_an_action_as_an_output_field() -> None:
    field = (TOOLS.action_type(Literal["x", "y"]), dspy.OutputField(desc="what to do"))
    signature = dspy.Signature({"query": (str, dspy.InputField()), "action": field}, "Answer.")
    reply = json.dumps({"action": {"tool": "search_memory", "query": "robot"}})
    action = dspy.JSONAdapter().parse(signature, reply)["action"]
    assert TOOLS.run(action, CONTEXT).text.startswith("1. 2015-03-03 tag: dystopia")


def test_an_observation_holds_what_was_done() -> None:
    seen = TOOLS.run(TOOLS.call("add", left=2, right=3), CONTEXT)
    assert (seen.tool, seen.arguments, seen.text, seen.failed) == ("add", {"left": 2, "right": 3}, "5", False)
    assert 0 <= seen.seconds < 1


def test_a_call_of_no_tool_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no tool 'fly'; there are: search_memory, add"):
        TOOLS.call("fly")


def test_a_failing_tool_becomes_an_observation_of_one_short_line() -> None:
    seen = TOOLS.run(TOOLS.call("breaks", query="q"), CONTEXT)
    assert seen.failed
    assert seen.text.startswith("breaks failed: ValueError: no such thing yyy")
    assert len(seen.text) == len("breaks failed: ValueError: ") + 200


def test_a_tool_may_say_in_its_own_words_that_it_failed() -> None:
    seen = TOOLS.run(TOOLS.call("gives_up", query="q"), CONTEXT)
    assert (seen.text, seen.failed) == ("Nothing is known about that. Go on.", True)


def test_long_observations_are_cut() -> None:
    tools = ToolSet([Tool.of(waits)], max_chars=20)
    seen = tools.run(tools.call("waits", query="z" * 99), CONTEXT)
    assert seen.text == "waited for zzzzzzzz…"


@pytest.mark.parametrize(
    ("result", "text"), [(None, "(nothing)"), ("", "(nothing)"), ({"é": [1]}, '{"é": [1]}'), (2.5, "2.5")]
)
def test_results_become_text(result: object, text: str) -> None:
    def tell() -> object:
        """Tell."""
        return result

    tools = ToolSet([Tool.of(tell)])
    assert tools.run(tools.call("tell"), CONTEXT).text == text


def test_async_tools_run_without_a_loop() -> None:
    assert TOOLS.run(TOOLS.call("waits", query="it"), CONTEXT).text == "waited for it"


async def test_async_tools_in_a_sync_agent_inside_a_loop_fail_clearly() -> None:
    seen = TOOLS.run(TOOLS.call("waits", query="it"), CONTEXT)
    assert seen.failed
    assert "use the async agent" in seen.text


async def test_async_run_awaits_async_tools_and_calls_sync_ones() -> None:
    assert (await TOOLS.arun(TOOLS.call("waits", query="it"), CONTEXT)).text == "waited for it"
    assert (await TOOLS.arun(TOOLS.call("add", left=1), CONTEXT)).text == "2"
    assert (await TOOLS.arun(TOOLS.call("breaks", query="q"), CONTEXT)).failed


async def test_async_run_puts_only_blocking_tools_into_a_thread() -> None:
    here = threading.current_thread().name
    quick, slow = ToolSet([Tool.of(which_thread)]), ToolSet([Tool.of(which_thread, blocking=True)])
    assert (await quick.arun(quick.call("which_thread"), CONTEXT)).text == here
    assert (await slow.arun(slow.call("which_thread"), CONTEXT)).text != here


async def test_cancelling_the_agent_cancels_the_tool() -> None:
    async def forever() -> str:
        """Never end."""
        await asyncio.Event().wait()
        return ""

    tools = ToolSet([Tool.of(forever)])
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(tools.arun(tools.call("forever"), CONTEXT), 0.01)


def test_deep_copies_share_the_tools() -> None:
    assert copy.deepcopy([TOOLS])[0] is TOOLS


def test_default_tools_are_shared_and_write_nothing_before_use(tmp_path: Path) -> None:
    tools = default_tools(tmp_path / "cache")
    assert list(tools.tools) == ["search_memory", "read_profile", "search_wikipedia"]
    assert tools is default_tools(tmp_path / "cache")
    assert list(default_tools(tmp_path, wikipedia=False).tools) == ["search_memory", "read_profile"]
    assert list(tmp_path.iterdir()) == []
