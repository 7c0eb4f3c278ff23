"""What Python users reach for first: own tasks, own tools, copies, histories, and no network."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy
import pytest
from dspy.clients import base_lm

import personaagent
from optimizers import PAPER, align_user, examples
from program import (
    EpisodicMemory,
    Interaction,
    Item,
    Labels,
    PersonaAgent,
    Task,
    ToolSet,
    UserStore,
    get_task,
    import_users,
    open_session,
    scripted_lm,
)
from program.errors import ConfigError, StoreError, UnknownTaskError
from program.task import task_spec

ROOT = Path(__file__).parents[2]
OWN = """
from personaagent import Interaction, Item, Labels, Pair, Task

def pairs(history, negatives, rng):
    return [Pair(item, f"Again: {item.query}", item.response) for item in history]

TRIAGE = Task(
    name="triage",
    question="How urgent is this ticket for this user?",
    answer=Labels(("high", "low")),
    read_item=lambda item: Item(item["ticket"], item["urgency"]),
    read_query=str.strip,
    response_noun="urgency",
)
PAIRED = Task(
    name="paired", question="How urgent?", answer=Labels(("high", "low")), pairs=pairs,
    read_item=lambda item: Item(item["ticket"], item["urgency"]), read_query=str.strip,
)
SECOND = Task(
    name="LaMP-3", question="Another task of that name.", answer=Labels(("high", "low")),
    read_item=lambda item: Item(item["ticket"], item["urgency"]), read_query=str.strip,
)
NOT_A_TASK = 3
"""


def finish(answer: str) -> Mapping[str, Any]:
    return {"thought": "", "action": {"tool": "finish", "answer": answer}}


def reply(system: str, user: str) -> Any:
    if "critical evaluator" in system:
        return "Ana calls outages urgent."
    if "refine the system prompt" in system:
        return "Ana calls outages urgent. Answer in one word."
    if "Describe one user" in system:
        return "Ana answers tickets."
    return finish("high") if "`action`" in user else {"answer": "high"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with tasks, in a folder that is on the path."""
    name = f"tasks_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.jsonl"
    rows = [{"user_id": "ana", "query": f"The server {n} is down.", "response": "high"} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "users.db") as store:
        yield store


def agent(tools: Any = None, user: str = "ana") -> PersonaAgent:
    history = [
        Interaction(id=str(n), user_id=user, query=f"request {n} of {user}", response="r") for n in range(3)
    ]
    return PersonaAgent.for_user(user, EpisodicMemory(user, history), tools, task=get_task("free-text"))


class TestOwnTask:
    def test_imported_user_is_asked_observed_and_aligned(
        self, store: UserStore, module: str, tickets: Path
    ) -> None:
        import_users(store, tickets, task=f"{module}:TRIAGE")
        assert store.user("ana").task == f"{module}:TRIAGE"
        with dspy.context(lm=scripted_lm(reply)):
            session = open_session(store, "ana", wikipedia=False)
            assert session.agent(query="The mail is slow.").answer == "high"
            session.observe("The mail is slow.", "low")
            align_user(store, "ana", PAPER, wikipedia=False)
        version = store.persona("ana")
        assert version is not None
        assert version.source == "alignment"

    def test_another_process_finds_the_task_again(
        self, store: UserStore, module: str, tickets: Path, tmp_path: Path
    ) -> None:
        import_users(store, tickets, task=f"{module}:TRIAGE")
        code = f"""
from program import UserStore, get_task, open_session
with UserStore({str(tmp_path / "users.db")!r}) as store:
    session = open_session(store, "ana", prose=False, wikipedia=False)
    print(session.agent.context.task.response_noun)
"""
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))},
        )
        assert found.stdout == "urgency\n", found.stderr

    def test_task_with_pairs_makes_its_own_questions(self, module: str) -> None:
        memory = EpisodicMemory("ana", [Interaction(id="1", user_id="ana", query="q", response="high")])
        assert examples(memory, get_task(f"{module}:PAIRED"))[0].query == "Again: q"

    def test_bare_name_of_a_stored_user_is_mended_by_importing_again(
        self, store: UserStore, module: str, tickets: Path
    ) -> None:
        import_users(store, tickets, task=f"{module}:TRIAGE")
        with store._database.write() as connection:
            connection.exec_driver_sql("UPDATE pa_users SET task = 'triage'")
        with pytest.raises(UnknownTaskError, match="unknown task 'triage'"):
            open_session(store, "ana", prose=False, wikipedia=False)
        assert import_users(store, tickets, task=f"{module}:TRIAGE").new == 0
        open_session(store, "ana", prose=False, wikipedia=False)

    @pytest.mark.parametrize("given", ["lamp_2m", "LaMP-2M", "LAMP-2m", "eval.tasks.lamp_2m:TASK"])
    def test_installed_task_is_stored_under_its_name(self, store: UserStore, given: str) -> None:
        store.add_user("ana", task=given)
        store.add_user("ana", task="LaMP-2M")
        store.append("ana", [], task=get_task("LaMP-2M"))
        assert store.user("ana").task == "LaMP-2M"

    def test_name_of_an_installed_task_does_not_hide_ones_own(self, store: UserStore, module: str) -> None:
        store.add_user("ana", task=f"{module}:SECOND")
        assert store.user("ana").task == f"{module}:SECOND"
        with pytest.raises(StoreError, match="already stored with task"):
            store.add_user("ana", task="LaMP-3")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("triage", "unknown task 'triage'; use one of"),
            ("{module}:MISSING", "cannot load task"),
            ("{module}:NOT_A_TASK", "is not a `Task` but a int"),
            ("no_such_module:TRIAGE", "cannot load task"),
            (3, "a task is named by text"),
            (None, "a task is named by text"),
        ],
    )
    def test_task_that_cannot_be_found_is_refused_before_anything_is_stored(
        self, store: UserStore, module: str, given: Any, message: str
    ) -> None:
        if isinstance(given, str):
            given = given.format(module=module)
        with pytest.raises(UnknownTaskError, match=message):
            store.add_user("ana", task=given)
        assert list(store.users()) == []

    def test_task_object_or_script_that_nothing_finds_again_is_refused(
        self, store: UserStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mood = Task(
            name="mood",
            question="Which mood?",
            answer=Labels(("good", "bad")),
            read_item=lambda item: Item(item["day"], item["mood"]),
            read_query=str.strip,
        )
        with pytest.raises(ConfigError, match="give its path, `module:TASK`"):
            store.add_user("ana", task=mood)
        monkeypatch.setattr(sys.modules["__main__"], "MOOD", mood, raising=False)
        with pytest.raises(ConfigError, match="move it to a module"):
            task_spec("__main__:MOOD")
        assert list(store.users()) == []

    def test_task_object_works_without_a_store(self) -> None:
        mood = Task(
            name="mood",
            question="Which mood?",
            answer=Labels(("good", "bad")),
            read_item=lambda item: Item(item["day"], item["mood"]),
            read_query=str.strip,
        )
        history = [Interaction(id="1", user_id="ana", query="Sun.", response="good")]
        own = PersonaAgent.for_user("ana", EpisodicMemory("ana", history), ToolSet([]), task=mood)
        with dspy.context(lm=scripted_lm(lambda system, user: {"answer": "bad"})):
            assert own(query="Rain.").answer == "bad"

    @pytest.mark.parametrize("name", ["Item", "Pair", "Task", "Labels", "Rating", "Text", "Tool", "ToolSet"])
    def test_front_door_exports_what_a_task_and_a_tool_need(self, name: str) -> None:
        assert ">>>" in getattr(personaagent, name).__doc__


def convert(celsius: float, digits: int = 1) -> float:
    """Convert a temperature to Fahrenheit."""
    return round(celsius * 9 / 5 + 32, digits)


class TestOwnTools:
    @pytest.mark.parametrize("tools", [[convert], (convert,)])
    def test_function_comes_beside_the_default_tools(self, tools: Any) -> None:
        names = list(agent(tools).context.tools.tools)
        assert names == ["search_memory", "read_profile", "search_wikipedia", "convert"]

    def test_tool_set_replaces_the_default_tools(self) -> None:
        assert list(agent(ToolSet([convert])).context.tools.tools) == ["convert"]

    def test_tool_of_an_agent_is_called_with_null_for_its_default(self) -> None:
        def ask(system: str, user: str) -> Any:
            if "98.6" in user:
                return finish("98.6")
            return {"thought": "", "action": {"tool": "convert", "celsius": 37, "digits": None}}

        with dspy.context(lm=scripted_lm(ask)):
            prediction = agent([convert])(query="37 degrees?")
        assert (prediction.answer, prediction.steps[0].call) == ("98.6", "convert(37.0, 1)")

    def test_name_of_a_default_tool_is_refused(self) -> None:
        def read_profile() -> str:
            """Read."""
            return ""

        with pytest.raises(ConfigError, match="two tools are called `read_profile`"):
            agent([read_profile])


class TestCopies:
    def test_copy_has_a_persona_and_demos_of_its_own(self) -> None:
        first = agent(ToolSet([]))
        text = first.persona
        for copied in (copy.copy(first), copy.deepcopy(first), first.deepcopy(), first.reset_copy()):
            copied.persona = "Be brief."
            copied.act.demos = [dspy.Example(query="q")]
            assert (first.persona, first.act.demos) == (text, [])
            assert copied.context.memory is first.context.memory

    def test_pickled_agent_keeps_everything_but_the_store(self, store: UserStore) -> None:
        store.append("ana", [Interaction(id="1", user_id="ana", query="q", response="r")], task="free-text")
        session = open_session(store, "ana", wikipedia=False, prose=False, tools=[convert])
        session.agent.persona = "Be brief."
        back = pickle.loads(cloudpickle.dumps(session.agent))
        assert back.persona == "Be brief."
        assert back.context.memory.latest() == session.agent.context.memory.latest()
        assert back.context.settings == session.agent.context.settings
        assert back.context.tools.render() == session.agent.context.tools.render()
        with pytest.raises(ConfigError, match="no store to refresh from"):
            back.refresh()
        back.context.memory.append(Interaction(id="2", user_id="ana", query="q2", response="r"))
        assert len(session.agent.context.memory) == 1
        with dspy.context(lm=scripted_lm(lambda system, user: finish("Tea."))):
            assert back(query="q2").answer == "Tea."

    def test_old_name_of_the_context_reads_with_a_warning(self) -> None:
        program = agent(ToolSet([]))
        with pytest.warns(
            DeprecationWarning, match=r"`PersonaAgent.surroundings` is now `PersonaAgent.context`"
        ):
            assert program.surroundings is program.context
        with pytest.raises(AttributeError, match="no attribute 'surrounding'"):
            program.surrounding  # noqa: B018 - the access is the test


class TestHistory:
    """Calls outside `track_usage` leave no prompt in DSPy's histories, where users would mix."""

    @pytest.fixture(autouse=True)
    def dspy_defaults(self) -> Iterator[None]:
        base_lm.GLOBAL_HISTORY.clear()
        dspy.configure(disable_history=False, trace=[])
        yield
        base_lm.GLOBAL_HISTORY.clear()

    def test_agents_on_threads_and_asyncio_leave_none(self) -> None:
        lm = scripted_lm(lambda system, user: "Tea.")
        users = [f"user{number}x" for number in range(8)]
        agents = {user: agent(ToolSet([]), user) for user in users}

        def ask(user: str) -> str:
            return str(agents[user](query=f"a question of {user}").answer)

        async def ask_all() -> list[Any]:
            return list(await asyncio.gather(*(agents[u].acall(query=f"a question of {u}") for u in users)))

        with dspy.context(lm=lm), ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(copy_context().run, ask, user) for user in users * 5]
            assert {future.result() for future in waiting} == {"Tea."}
            asyncio.run(ask_all())
            assert dspy.settings.trace in ([], None)
        assert len(lm.engine.prompts) == 48
        assert list(base_lm.GLOBAL_HISTORY) == []
        assert list(lm.history) == []
        for program in agents.values():
            assert (list(program.history), list(program.act.history)) == ([], [])

    def test_memory_stays_flat(self) -> None:
        lm = scripted_lm(lambda system, user: "Tea.")
        lm.engine.prompts = Forgetful()
        program = agent(ToolSet([]))
        with dspy.context(lm=lm):
            counts = []
            for _ in range(3):
                for number in range(100):
                    program(query=f"question {number} {'x' * 2000}")
                gc.collect()
                counts.append(sum(type(thing) is dict for thing in gc.get_objects()))
        assert counts[2] - counts[1] < 50


class Forgetful(list):  # type: ignore[type-arg]
    """A list that keeps nothing."""

    def append(self, item: Any) -> None:
        pass


_WATCHED = """
import socket
tried = []
def refuse(*address, **options):
    tried.append(address)
    raise OSError("no network here")
socket.getaddrinfo = refuse
socket.socket.connect = refuse
from program import resolve_lm
resolve_lm("ollama_chat/llama3")
import litellm
assert litellm.model_cost
print(len(tried))
"""


def test_price_table_is_not_fetched() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LITELLM")}
    watched = subprocess.run(
        [sys.executable, "-c", _WATCHED],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert watched.stdout.strip().splitlines()[-1:] == ["0"], watched.stderr


def test_users_own_choice_of_the_price_table_stays() -> None:
    code = "import os, program; print(os.environ['LITELLM_LOCAL_MODEL_COST_MAP'])"
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "False"}
    chosen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert chosen.stdout == "False\n"
