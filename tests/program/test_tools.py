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
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from program.errors import ConfigError
from program.memory.base import Before
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.tools import Tool, ToolContext, ToolError, ToolSet, default_tools
from program.tools.read_profile import read_profile
from program.tools.search_memory import search_memory


def film(number: int, query: str, tag: str) -> Interaction:
    when = datetime(2015, 3, number, tzinfo=timezone.utc)
    return Interaction(id=f"i{number}", user_id="ann", query=query, response=tag, timestamp=when)


MEMORY = EpisodicMemory(
    "ann",
    [
        film(1, "a robot\n falls in love", "sci-fi"),
        film(2, "a cook opens a restaurant", "comedy"),
        film(3, "a robot hunts androids " + "x" * 50, "dystopia"),
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


def thread_name() -> str:
    """Say which thread runs this."""
    return threading.current_thread().name


TOOLS = ToolSet([Tool.of(tool) for tool in (search_memory, add, breaks, gives_up, waits)], max_chars=400)


def test_memory_search_shows_number_date_response_and_request() -> None:
    assert search_memory(replace(CONTEXT, k=2), "robot") == (
        "1. 2015-03-03 tag: dystopia | a robot hunts androids xxxxxx…\n"
        "2. 2015-03-01 tag: sci-fi | a robot falls in love"
    )


def test_memory_search_omits_missing_dates() -> None:
    memory = EpisodicMemory("ann", [Interaction(id="1", user_id="ann", query="q", response="4")])
    assert search_memory(replace(CONTEXT, memory=memory), "x") == "1. tag: 4 | q"


def test_memory_search_respects_before_and_exclude() -> None:
    assert "dystopia" not in search_memory(replace(CONTEXT, before="i3"), "robot")
    assert "sci-fi" not in search_memory(replace(CONTEXT, exclude={"i1"}), "robot")


def test_observations_never_contain_the_user_id() -> None:
    observation = TOOLS.run(TOOLS.call("search_memory", query="robot"), replace(CONTEXT, before="unknown"))
    assert observation.text == "search_memory failed: ConfigError: this memory has no interaction 'unknown'"
    assert "ann" not in TOOLS.run(TOOLS.call("search_memory", query="robot"), CONTEXT).text


def test_memory_search_without_matches_says_so() -> None:
    assert (
        search_memory(replace(CONTEXT, before="i1"), "robot") == "No past interaction of this user was found."
    )


def test_read_profile_uses_before() -> None:
    def profile(before: Before) -> Profile:
        return Profile(facts=Facts(interactions=7), prose=f"As of {before}.")

    text = read_profile(replace(CONTEXT, profile=profile, before="i3"))
    assert "7" in text
    assert "As of i3." in text


def test_render_has_one_line_for_each_tool() -> None:
    assert ToolSet([Tool.of(add), Tool.of(thread_name)]).render() == (
        "add(left: int, right: int): Add two numbers.\nthread_name(): Say which thread runs this."
    )


def test_duplicate_tool_name_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="two tools are called `add`"):
        ToolSet([Tool.of(add), Tool.of(add)])


def test_argument_named_tool_raises_config_error() -> None:
    def use(tool: str) -> str:
        """Use a tool."""
        return tool

    with pytest.raises(ConfigError, match="tool `use`: an argument cannot be called `tool`"):
        ToolSet([Tool.of(use)])


def test_actions_are_discriminated_by_their_tool() -> None:
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
def test_invalid_actions_raise_validation_error(action: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TOOLS.action_type(Literal["x", "y"])).validate_python(action)


def test_action_type_is_created_once_for_each_answer_type() -> None:
    assert TOOLS.action_type(str) is TOOLS.action_type(str)
    assert TOOLS.action_type(Literal[1, 2]) is TOOLS.action_type(Literal[1, 2])
    assert TOOLS.action_type(str) is not TOOLS.action_type(Literal[1, 2])


def test_schema_is_an_any_of_without_titles_or_additional_fields() -> None:
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


def test_dspy_parses_an_action_as_an_output_field() -> None:
    field = (TOOLS.action_type(Literal["x", "y"]), dspy.OutputField(desc="what to do"))
    signature = dspy.Signature({"query": (str, dspy.InputField()), "action": field}, "Answer.")
    reply = json.dumps({"action": {"tool": "search_memory", "query": "robot"}})
    action = dspy.JSONAdapter().parse(signature, reply)["action"]
    assert TOOLS.run(action, CONTEXT).text.startswith("1. 2015-03-03 tag: dystopia")


def test_observation_has_tool_arguments_text_and_time() -> None:
    observation = TOOLS.run(TOOLS.call("add", left=2, right=3), CONTEXT)
    assert (observation.tool, observation.arguments, observation.text, observation.failed) == (
        "add",
        {"left": 2, "right": 3},
        "5",
        False,
    )
    assert 0 <= observation.seconds < 1


def test_unknown_tool_raises_with_the_valid_names() -> None:
    with pytest.raises(ConfigError, match="unknown tool 'fly'; use one of: search_memory, add"):
        TOOLS.call("fly")


def test_tool_exception_becomes_a_one_line_observation() -> None:
    observation = TOOLS.run(TOOLS.call("breaks", query="q"), CONTEXT)
    assert observation.failed
    assert observation.text.startswith("breaks failed: ValueError: no such thing yyy")
    assert len(observation.text) == len("breaks failed: ValueError: ") + 200


def test_tool_error_message_is_the_observation() -> None:
    observation = TOOLS.run(TOOLS.call("gives_up", query="q"), CONTEXT)
    assert (observation.text, observation.failed) == ("Nothing is known about that. Go on.", True)


def test_long_observations_are_cut() -> None:
    tools = ToolSet([Tool.of(waits)], max_chars=20)
    observation = tools.run(tools.call("waits", query="z" * 99), CONTEXT)
    assert observation.text == "waited for zzzzzzzz…"


@pytest.mark.parametrize(
    ("result", "text"), [(None, "(nothing)"), ("", "(nothing)"), ({"é": [1]}, '{"é": [1]}'), (2.5, "2.5")]
)
def test_results_are_rendered_as_text(result: object, text: str) -> None:
    def tell() -> object:
        """Tell."""
        return result

    tools = ToolSet([Tool.of(tell)])
    assert tools.run(tools.call("tell"), CONTEXT).text == text


def test_run_awaits_async_tools_without_an_event_loop() -> None:
    assert TOOLS.run(TOOLS.call("waits", query="it"), CONTEXT).text == "waited for it"


async def test_run_of_an_async_tool_inside_an_event_loop_fails() -> None:
    observation = TOOLS.run(TOOLS.call("waits", query="it"), CONTEXT)
    assert observation.failed
    assert "use the async agent" in observation.text


async def test_arun_awaits_async_tools_and_calls_sync_ones() -> None:
    assert (await TOOLS.arun(TOOLS.call("waits", query="it"), CONTEXT)).text == "waited for it"
    assert (await TOOLS.arun(TOOLS.call("add", left=1), CONTEXT)).text == "2"
    assert (await TOOLS.arun(TOOLS.call("breaks", query="q"), CONTEXT)).failed


async def test_arun_uses_a_thread_only_for_blocking_tools() -> None:
    here = threading.current_thread().name
    quick, slow = ToolSet([Tool.of(thread_name)]), ToolSet([Tool.of(thread_name, blocking=True)])
    assert (await quick.arun(quick.call("thread_name"), CONTEXT)).text == here
    assert (await slow.arun(slow.call("thread_name"), CONTEXT)).text != here


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


def test_default_tools_are_cached_and_write_no_files(tmp_path: Path) -> None:
    tools = default_tools(tmp_path / "cache")
    assert list(tools.tools) == ["search_memory", "read_profile", "search_wikipedia"]
    assert tools is default_tools(tmp_path / "cache")
    assert list(default_tools(tmp_path, wikipedia=False).tools) == ["search_memory", "read_profile"]
    assert list(tmp_path.iterdir()) == []


def test_tool_without_a_docstring_raises_config_error() -> None:
    def silent(query: str) -> str:
        return query

    with pytest.raises(ConfigError, match="tool `silent` needs a docstring"):
        Tool.of(silent)


def test_tool_argument_without_a_type_raises_config_error() -> None:
    def loose(query) -> str:  # type: ignore[no-untyped-def]
        """Take anything."""
        return str(query)

    with pytest.raises(ConfigError, match="tool `loose`: argument `query` needs a type"):
        Tool.of(loose)


def test_tool_named_finish_raises_config_error() -> None:
    def finish() -> str:
        """End."""
        return ""

    with pytest.raises(ConfigError, match="`finish` is reserved"):
        Tool.of(finish)


def test_description_is_the_first_paragraph_of_the_docstring() -> None:
    assert Tool.of(add).description == "Add two numbers."


def test_context_is_passed_only_as_a_first_argument_of_its_type() -> None:
    assert Tool.of(search_memory).needs_context
    assert Tool.of(search_memory).arguments == {"query": str}
    assert not Tool.of(add).needs_context
    assert Tool.of(add).arguments == {"left": int, "right": int}


def test_bound_method_is_a_tool_without_self() -> None:
    class Counter:
        total = 0

        def count(self, by: int) -> int:
            """Count up."""
            self.total += by
            return self.total

    tools = ToolSet([Tool.of(Counter().count)])
    observations = [tools.run(tools.call("count", by=2), CONTEXT).text for _ in range(2)]
    assert observations == ["2", "4"]


def test_empty_tool_set_allows_only_the_final_answer() -> None:
    tools = ToolSet([])
    assert tools.render() == ""
    adapter = TypeAdapter(tools.action_type(str))
    assert adapter.validate_python({"tool": "finish", "answer": "a"}).answer == "a"
    with pytest.raises(ValidationError):
        adapter.validate_python({"tool": "add", "left": 1})
    with pytest.raises(ConfigError, match="unknown tool 'add'; use one of: none"):
        tools.call("add")


def test_call_validates_its_arguments() -> None:
    with pytest.raises(ValidationError):
        TOOLS.call("add", left="three")
    with pytest.raises(ValidationError):
        TOOLS.call("add", left=1, middle=2)


def test_blocking_async_tool_is_awaited_in_the_event_loop() -> None:
    async def thread() -> str:
        """Say which thread runs this."""
        return threading.current_thread().name

    tools = ToolSet([Tool.of(thread, blocking=True)])

    async def run() -> str:
        return (await tools.arun(tools.call("thread"), CONTEXT)).text

    assert asyncio.run(run()) == threading.current_thread().name


def test_blocking_tools_run_concurrently() -> None:
    barrier = threading.Barrier(2, timeout=5)

    def meet() -> str:
        """Wait for the other call."""
        barrier.wait()
        return "met"

    tools = ToolSet([Tool.of(meet, blocking=True)])

    async def run() -> list[str]:
        calls = (tools.arun(tools.call("meet"), CONTEXT) for _ in range(2))
        return [observation.text for observation in await asyncio.gather(*calls)]

    assert asyncio.run(run()) == ["met", "met"]


@given(text=st.text(max_size=60), max_chars=st.integers(1, 30))
def test_observation_never_exceeds_its_limit(text: str, max_chars: int) -> None:
    def echo(text: str) -> str:
        """Repeat a text."""
        return text

    tools = ToolSet([Tool.of(echo)], max_chars=max_chars)
    observation = tools.run(tools.call("echo", text=text), CONTEXT)
    assert len(observation.text) <= max_chars
    assert not observation.failed


@given(query=st.text(max_size=80), response=st.text(max_size=80))
def test_memory_search_shows_each_interaction_in_one_line(query: str, response: str) -> None:
    item = Interaction(id="1", user_id="ann", query=query, response=response)
    text = search_memory(replace(CONTEXT, memory=EpisodicMemory("ann", [item, replace(item, id="2")])), "x")
    first, second = text.split("\n")
    assert first.startswith("1. tag: ")
    assert second.startswith("2. tag: ")
    assert len(first) <= len("1. tag:  | ") + 2 * CONTEXT.max_chars
