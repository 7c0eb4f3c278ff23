import asyncio
import copy
import json
import pickle
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import cloudpickle  # type: ignore[import-untyped]
import dspy
import pytest
from dspy.adapters.json_adapter import _get_structured_outputs_response_format
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from program.errors import ConfigError
from program.json_schema import is_open_type, parts
from program.memory.base import Before
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.models.forms import SchemaAdapter
from program.models.scripted import scripted_lm
from program.tools import Tool, ToolContext, ToolError, ToolSet, default_tools, make_tools
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
    retrieval="bm25",
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
        "2. 2015-03-01 tag: sci-fi | a robot\n     falls in love"
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
        "add(left: int, right: int = 1): Add two numbers.\nthread_name(): Say which thread runs this."
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
    assert observation.seconds >= 0


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
    barrier = threading.Barrier(2, timeout=60)

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
def test_memory_search_shows_each_interaction_from_the_margin_and_its_lines_indented(
    query: str, response: str
) -> None:
    item = Interaction(id="1", user_id="ann", query=query, response=response)
    text = search_memory(replace(CONTEXT, memory=EpisodicMemory("ann", [item, replace(item, id="2")])), "x")
    margin = [line for line in text.split("\n") if line and not line.startswith("  ")]
    assert [line[:8] for line in margin] == ["1. tag: ", "2. tag: "]
    assert len(text) <= 2 * (len("1. tag: \n  | ") + 2 * CONTEXT.max_chars) + 1


def strict_format(tools: ToolSet) -> dict[str, Any]:
    """Return the schema that DSPy sends for an action, as a provider with strict schemas reads it."""
    field = (tools.action_type(str), dspy.OutputField(desc="what to do"))
    signature = dspy.Signature({"query": (str, dspy.InputField()), "action": field}, "Answer.")
    schema: dict[str, Any] = _get_structured_outputs_response_format(signature).model_json_schema()
    return schema


@dataclass
class Span:
    """A stretch of days."""

    first: int
    days: int = 3


class Filter(BaseModel):
    """What to look for."""

    author: str = "anyone"
    spans: list[Span] = []


def weather(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> str:
    """Say what the weather in a city will be."""
    return f"sun in {city} for {days} days in {unit}"


def books(
    filter: Filter,  # noqa: A002 - a name that tools have
    limit: int | None = 5,
    words: list[str] = [],  # noqa: B006 - a default that tools have
    json: bool = False,
) -> str:
    """Look for books."""
    return f"{filter.author} {limit} {words} {json}"


def shelf(filters: dict[str, str]) -> str:
    """Look for books by author or title."""
    return str(filters)


class TestOptionalArguments:
    def test_strict_schema_has_no_defaults_and_requires_every_field(self) -> None:
        schema = strict_format(ToolSet([weather, books]))
        for part in parts(schema):
            assert "default" not in part
            if part.get("type") == "object":
                assert part["required"] == list(part["properties"])
                assert part["additionalProperties"] is False
        assert schema["$defs"]["Weather"]["properties"]["days"] == {
            "anyOf": [{"type": "integer"}, {"type": "null"}]
        }

    @pytest.mark.parametrize("days", [{}, {"days": None}, {"days": 3}])
    def test_null_and_omitted_arguments_are_the_default(self, days: dict[str, Any]) -> None:
        tools = ToolSet([weather])
        adapter = TypeAdapter(tools.action_type(str))
        action = adapter.validate_python({"tool": "weather", "city": "Rome", "unit": None, **days})
        assert tools.run(action, CONTEXT).text == "sun in Rome for 3 days in C"

    def test_a_given_value_replaces_the_default(self) -> None:
        tools = ToolSet([weather])
        assert tools.run(tools.call("weather", city="Rome", days=9), CONTEXT).text == (
            "sun in Rome for 9 days in C"
        )
        with pytest.raises(ValidationError):
            tools.call("weather", city="Rome", days="many")
        with pytest.raises(ValidationError):
            tools.call("weather", city=None)

    def test_null_stays_null_if_the_type_allows_it(self) -> None:
        tools = ToolSet([books])
        action = tools.call("books", filter={}, limit=None, words=None, json=None)
        assert tools.run(action, CONTEXT).text == "anyone None [] False"

    def test_model_reads_the_default(self) -> None:
        assert ToolSet([weather]).render() == (
            "weather(city: str, days: int = 3, unit: Literal['C', 'F'] = 'C'): "
            "Say what the weather in a city will be."
        )

    def test_async_tools_have_optional_arguments_too(self) -> None:
        async def later(hours: int = 2) -> int:
            """Say when."""
            return hours

        tools = ToolSet([later])
        assert asyncio.run(tools.arun(tools.call("later", hours=None), CONTEXT)).text == "2"


class TestOpenMappings:
    @pytest.mark.parametrize(
        "annotation",
        [
            dict,
            dict[str, str],
            dict[str, Any],
            Mapping[str, int],
            dict[str, str] | None,
            list[dict[str, int]],
            Any,
            list[Any],
            defaultdict[str, int],
        ],
    )
    def test_tool_set_with_a_mapping_is_open(self, annotation: Any) -> None:
        def look(where: Any) -> str:
            """Look."""
            return str(where)

        look.__annotations__["where"] = annotation
        assert is_open_type(ToolSet([look]).action_type(str))

    @pytest.mark.parametrize("tool", [weather, books, search_memory, read_profile])
    def test_tool_set_with_named_fields_is_closed(self, tool: Any) -> None:
        assert not is_open_type(ToolSet([tool]).action_type(Literal["a"]))

    def test_no_schema_allows_only_an_empty_mapping(self) -> None:
        filters = strict_format(ToolSet([shelf]))["$defs"]["Shelf"]["properties"]["filters"]
        assert filters["additionalProperties"] == {"type": "string"}

    @pytest.mark.parametrize(("tool", "form"), [(shelf, "json_object"), (weather, "json_schema")])
    def test_agent_asks_for_a_schema_only_if_it_can_name_every_field(self, tool: Any, form: str) -> None:
        tools = ToolSet([tool])
        field = (tools.action_type(str), dspy.OutputField(desc="what to do"))
        signature = dspy.Signature({"query": (str, dspy.InputField(desc="q")), "action": field}, "Answer.")

        def reply(system: str, user: str) -> Any:
            return {"action": {"tool": "finish", "answer": "yes"}}

        lm = scripted_lm(reply)
        formats: list[Any] = []
        complete = lm.engine.complete

        def watched(request: Any) -> Any:
            formats.append(request.config.response_format)
            return complete(request)

        lm.engine.complete = watched
        with dspy.context(lm=lm, adapter=SchemaAdapter()):
            assert dspy.Predict(signature)(query="q").action.answer == "yes"
        assert formats[0]["type"] == form


class TestFunctions:
    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ("*words: str", "`\\*words: str` needs a name"),
            ("**words: str", "`\\*\\*words: str` needs a name"),
            ("word: str, /", "`word: str` needs a name"),
            ("word: 'Missing'", "name 'Missing' is not defined"),
            ("_word: str", "an argument cannot be called `_word`"),
            ("model_config: str", "an argument cannot be called `model_config`"),
            ("word: type(CONTEXT)", "a model cannot write its arguments"),
        ],
    )
    def test_function_that_a_model_cannot_call_raises_config_error(
        self, parameters: str, message: str
    ) -> None:
        scope: dict[str, Any] = {"CONTEXT": object()}
        exec(f"class Own: pass\nCONTEXT = Own()\ndef look({parameters}) -> str:\n    'Look.'", scope)
        with pytest.raises(ConfigError, match=f"tool `look`.*{message}"):
            ToolSet([scope["look"]])

    def test_callable_object_is_a_tool(self) -> None:
        class Adder:
            """Add to a start."""

            def __call__(self, by: int) -> int:
                return 1 + by

        tools = ToolSet([Adder()])
        assert tools.run(tools.call("Adder", by=2), CONTEXT).text == "3"

    def test_with_tools_returns_a_new_set_with_the_same_limit(self) -> None:
        base = ToolSet([weather], max_chars=50)
        both = base.with_tools(shelf, Tool.of(books))
        assert list(base.tools) == ["weather"]
        assert (list(both.tools), both.max_chars) == (["weather", "shelf", "books"], 50)
        with pytest.raises(ConfigError, match="two tools are called `weather`"):
            base.with_tools(weather)

    def test_list_adds_to_the_default_tools_and_a_set_replaces_them(self, tmp_path: Path) -> None:
        default = default_tools(tmp_path, wikipedia=False)
        assert make_tools(None, tmp_path, wikipedia=False) is default
        assert make_tools([], tmp_path, wikipedia=False) is default
        assert list(make_tools((weather,), tmp_path, wikipedia=False).tools) == [*default.tools, "weather"]
        alone = ToolSet([weather])
        assert make_tools(alone, tmp_path) is alone

    @pytest.mark.parametrize("tool", [weather, Tool.of(weather)])
    def test_single_tool_outside_a_list_raises_config_error(self, tool: Any) -> None:
        with pytest.raises(ConfigError, match="put the function in a list"):
            make_tools(tool)

    def test_default_tools_use_the_data_directory(self, tmp_path: Path) -> None:
        assert default_tools() is default_tools(tmp_path / "home" / "cache")


class TestPickle:
    def test_actions_and_their_classes_come_back_equal(self) -> None:
        tools = ToolSet([weather, shelf])
        finish = TypeAdapter(tools.action_type(Literal["x"])).validate_python(
            {"tool": "finish", "answer": "x"}
        )
        for action in (tools.call("weather", city="Rome"), tools.call("shelf", filters={"a": "b"}), finish):
            back = pickle.loads(pickle.dumps(action))
            assert back == action
            assert type(back) is type(action)
            assert copy.deepcopy(action) == action

    def test_tool_set_comes_back_with_its_tools_and_limit(self) -> None:
        back = cloudpickle.loads(cloudpickle.dumps(TOOLS))
        assert (list(back.tools), back.max_chars, back.render()) == (
            list(TOOLS.tools),
            TOOLS.max_chars,
            TOOLS.render(),
        )
        assert back.run(back.call("add", left=2), CONTEXT).text == "3"

    def test_default_tools_can_be_pickled(self, tmp_path: Path) -> None:
        back = pickle.loads(pickle.dumps(default_tools(tmp_path)))
        assert list(back.tools) == ["search_memory", "read_profile", "search_wikipedia"]

    def test_equal_tools_share_their_models(self) -> None:
        assert ToolSet([weather]).call_models["weather"] is ToolSet([weather]).call_models["weather"]

    def test_defaults_of_another_type_have_another_model(self) -> None:
        def one(flag: Any = 1) -> str:
            """Tell."""
            return str(flag)

        def two(flag: Any = True) -> str:
            """Tell."""
            return str(flag)

        two.__name__ = "one"
        assert [ToolSet([tool]).call("one").model_dump()["flag"] for tool in (one, two)] == [1, True]
        assert ToolSet([one]).call_models["one"] is not ToolSet([two]).call_models["one"]
