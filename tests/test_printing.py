"""What every command prints: users' and models' texts as they are, and no byte that controls a terminal.

A path or argument that cannot be used is one line, before any model call.

The commands come from the Typer app, so that a new command fails here until it is tried.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import dspy
import pytest
import typer
from rich.color import ColorSystem

import personaagent
from eval.demo import SAMPLE
from program import console
from program.cli.options import guarded
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.persona import Persona
from program.serve.keys import Keys
from program.store import UserStore
from program.text_safety import printable
from program.tracing.server.http_server import TraceServer

CONTROLS = (
    "\x1b]52;c;cm0gLXJm\x07\x1b]0;title\x1b\\\x1b[2J\x1b[31mred\x1b[0m\x9b31m\x90q\x9c\x9d0;t\x9c\x85\x7f\x08\r\x0b"
    "\u202eevil\u202c\u2066x\u2069\u200f\u061c\u2028\u2029"
)
MARKUP = "[red]ann[/] team[/eu] [link=file:///etc]x[/link] [/red] :smile: $(id) `id` | <b> \\[x]"
HOSTILE = f"{MARKUP} {CONTROLS} end\nsecond\tline"
ANN = "team[/eu] [red]ann' \u202e;$(id)"
BOB = "-[/b]" + "b" * 251
HOSTILE_PATH = "no[red]\x1b[2J\u202e.json"


MODEL = ("--model", "python:hostile_models:reply")
LOCAL = (*MODEL, "--no-wikipedia")
EVAL = ("--task", "LaMP-4", "--method", "rag,lead", *MODEL)


class Completed(NamedTuple):
    code: int
    out: bytes
    err: bytes


Run = Callable[..., Completed]


def reply(system: str, user: str) -> Any:
    for request in ("write the feedback", "write the new system prompt", "write the profile"):
        if request in user:
            return HOSTILE
    return {"thought": HOSTILE, "action": {"tool": "finish", "answer": HOSTILE}, "answer": HOSTILE}


def fail(system: str, user: str) -> Any:
    raise dspy.LMServerError(HOSTILE)


MODELS = ModuleType("hostile_models")
MODELS.reply = scripted_lm(reply)  # type: ignore[attr-defined]
MODELS.fail = scripted_lm(fail)  # type: ignore[attr-defined]
MODELS.garbage = scripted_lm(lambda system, user: f"{{{HOSTILE}")  # type: ignore[attr-defined]


class World(NamedTuple):
    home: Path
    history: Path
    bad_history: Path
    data: Path
    golds: Path
    run: Path
    sweep: Path
    out: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Users, personas, traces and runs that hold hostile texts."""
    folder = tmp_path_factory.mktemp("world") / "out[" / "b]"
    folder.mkdir(parents=True)
    names = {name: folder / name for name in World._fields if name != "out"}
    world = World(**names, out=folder)
    world.history.write_text(
        "".join(
            json.dumps({"user_id": user, "id": str(number), "query": HOSTILE, "response": HOSTILE}) + "\n"
            for user in (ANN, BOB, "forgotten")
            for number in range(3)
        ),
        encoding="utf-8",
    )
    world.bad_history.write_text(json.dumps({"user_id": HOSTILE, "query": "q"}), encoding="utf-8")
    people = [
        {
            "user_id": user,
            "profile": [{"id": f"{index}{n}", "title": HOSTILE, "text": HOSTILE} for n in range(3)],
            "query": [
                {
                    "id": f"{index}9",
                    "input": f"Generate a headline for the following article: {HOSTILE}",
                    "gold": HOSTILE,
                }
            ],
        }
        for index, user in enumerate((ANN, BOB))
    ]
    world.data.write_text(json.dumps(people), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONAAGENT_HOME", str(world.home))
        patch.setitem(sys.modules, "hostile_models", MODELS)
        # Stores of earlier versions hold ids that are refused today.
        patch.setattr("program.store.checks.find_unseen", lambda name: None)
        for line in (
            ("users", "import", world.history),
            ("align", *LOCAL, "--", ANN, BOB),
            ("eval", "run", *EVAL, "--data", world.data, "--out", world.run),
            ("eval", "sweep", *EVAL, "--data", world.data, "--out", world.sweep, "--over", "k=1,2"),
        ):
            assert invoke(line) == 0
    return world


def invoke(line: tuple[object, ...]) -> int:
    arguments = [str(word) for word in line]
    app = personaagent.command_line()
    return guarded(lambda: app(arguments))


@pytest.fixture
def run(world: World, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(world.home))
    monkeypatch.setitem(sys.modules, "hostile_models", MODELS)
    monkeypatch.setattr(TraceServer, "serve_forever", _stop)
    monkeypatch.setattr("program.serve.running.run", lambda app, listening: None)
    # A download tries again without a wait.
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))

    def call(*words: object) -> Completed:
        code = invoke(words)
        return Completed(code, *capfdbinary.readouterr())

    return call


def _stop(server: TraceServer) -> None:
    raise KeyboardInterrupt


def commands(w: World) -> dict[str, list[tuple[object, ...]]]:
    """The command lines to try, by command, in an order in which each finds what it needs."""
    return {
        "users import": [
            (w.history,),
            (w.bad_history, "--skip-bad"),
            (w.bad_history,),
            (w.out / HOSTILE_PATH,),
        ],
        "ask": [
            (*LOCAL, "--", ANN, HOSTILE),
            (*LOCAL, "--", BOB, HOSTILE),
            (*LOCAL, "--adapter", "text", "--", ANN, HOSTILE),
            (ANN, "x", "--model", "python:hostile_models:fail", "--no-wikipedia"),
            (ANN, "x", "--model", "python:hostile_models:garbage", "--no-wikipedia"),
            (ANN, "x", "--model", HOSTILE),
            (ANN, "x", *LOCAL, "--trace", HOSTILE),
            (HOSTILE, "x", *LOCAL),
        ],
        "observe": [
            (ANN, "--query", HOSTILE, "--response", HOSTILE),
            ("--query", HOSTILE, "--response", HOSTILE, "--", BOB),
            (HOSTILE, "--query", "q", "--response", "r"),
        ],
        "align": [
            ("--gate", "always", *LOCAL, "--", ANN, BOB),
            ("--all", "--model", "python:hostile_models:fail", "--no-wikipedia"),
            (HOSTILE,),
            (ANN, "--gate", HOSTILE),
            (ANN, "--engine", "batch", *LOCAL),
            (ANN, "--engine", HOSTILE),
            (ANN, "--choice", HOSTILE),
            (ANN, "--negatives", w.out / "no" / HOSTILE_PATH),
            ("--all", "--plan", *LOCAL),
            (ANN, "--price-in", "1", *LOCAL),
        ],
        "users list": [(), ("--store", w.out / HOSTILE_PATH / "x"), ("--store", f"{HOSTILE}://")],
        "users show": [(ANN,), ("--", BOB), (HOSTILE,)],
        "users export": [
            (ANN,),
            (ANN, "--out", w.out / f"e{HOSTILE_PATH}"),
            (ANN, "--out", w.out / "no" / HOSTILE_PATH),
            (HOSTILE,),
        ],
        "persona show": [(ANN,), ("forgotten",), (HOSTILE,)],
        "persona why": [(ANN,), ("forgotten",), (HOSTILE,)],
        "why": [
            (ANN,),
            (ANN, HOSTILE.split()[0]),
            (ANN, "last"),
            ("forgotten",),
            (HOSTILE,),
            (BOB, "--version", 1),
        ],
        "persona page": [
            (ANN, "--out", w.out / HOSTILE_PATH),
            (ANN, "--out", w.out / "no" / HOSTILE_PATH),
            ("forgotten",),
            (HOSTILE,),
        ],
        "persona history": [(ANN,), (HOSTILE,)],
        "users correct": [
            (ANN,),
            ("--text", HOSTILE[:200], "--why", HOSTILE, "--", BOB),
            ("--", BOB),
            (ANN, "--line", HOSTILE, "--remove"),
            ("forgotten",),
            (HOSTILE,),
        ],
        "fleet status": [(), ("--store", w.out / HOSTILE_PATH / "x")],
        "fleet cancel": [("--all",), (HOSTILE,), ("--", ANN, BOB), ()],
        "fleet retry": [(), (HOSTILE,), ("--", ANN)],
        "worker": [("--drain",), ("--store", f"{HOSTILE}://")],
        "fleet schedule": [
            ("0 3 * * *", "--model", HOSTILE),
            (HOSTILE,),
            ("0 3 * * *", "--timezone", HOSTILE),
            ("0 3 * * *", "--preset", HOSTILE),
        ],
        "fleet unschedule": [(), ("--store", w.out / HOSTILE_PATH / "x")],
        "persona diff": [(ANN,), ("forgotten",), (ANN, HOSTILE)],
        "users costs": [(), (ANN,), ("--by", "month"), (ANN, "--by", "month"), (HOSTILE,)],
        "persona approve": [(ANN,), (ANN, 99), (ANN, HOSTILE), (HOSTILE, 1), ("forgotten",)],
        "persona pin": [(ANN, 1), (ANN, 99), (ANN, HOSTILE), (HOSTILE, 1)],
        "persona unpin": [(ANN,), (ANN,), ("forgotten",), (HOSTILE,)],
        "persona rollback": [(ANN, 1), (ANN, 99), (ANN, HOSTILE)],
        "interactions list": [(ANN,), ("--latest", 1, "--", BOB), (HOSTILE,)],
        "interactions forget": [("--yes", "--", BOB, 0), (ANN, HOSTILE, "--yes"), (HOSTILE, "x", "--yes")],
        "users readmit": [(ANN,), (HOSTILE,)],
        "store compact": [(), ("--store", f"{HOSTILE}://")],
        "store audit": [(), ("--store", w.out / HOSTILE_PATH / "x")],
        "store copy": [
            (w.home / "users.db", w.out / f"copy{HOSTILE_PATH}"),
            (w.home / "users.db", w.out / f"copy{HOSTILE_PATH}"),
            (w.home / "users.db", w.home / "users.db"),
            (w.out / HOSTILE_PATH, w.out / "copy2"),
            (w.home / "users.db", f"{HOSTILE}://"),
        ],
        "demo": [
            ("--data", w.data, "--task", "LaMP-4", *MODEL),
            ("--data", w.data, "--task", "LaMP-4", "--user", HOSTILE),
            ("--data", w.out / HOSTILE_PATH),
            ("--task", HOSTILE),
        ],
        "eval run": [
            (*EVAL, "--data", w.data, "--out", w.run),
            (*EVAL, "--data", w.data, "--out", w.run, "--seed", 3),
            (*EVAL, "--data", w.data, "--out", w.out / HOSTILE_PATH),
            (*EVAL, "--data", w.data, "--out", w.out / "r2", "--model", "python:hostile_models:fail"),
            (*EVAL, "--data", w.data, "--out", w.out / "r3", "--set", f"k={HOSTILE}"),
            ("--task", "LaMP-4", "--data", w.data, "--method", HOSTILE, "--out", w.out / "r4"),
            ("--task", HOSTILE, "--data", w.data, "--method", "rag", "--out", w.out / "r5"),
        ],
        "eval sweep": [
            (*EVAL, "--data", w.data, "--out", w.sweep, "--over", "k=1,2"),
            (*EVAL, "--data", w.data, "--out", w.out / "s2", "--over", f"k={HOSTILE}"),
            (*EVAL, "--data", w.data, "--out", w.out / "s3", "--over", HOSTILE),
        ],
        "eval score": [
            (w.run,),
            (w.run, "--format", "csv"),
            (w.run, "--format", "latex"),
            (w.run, "--format", "markdown"),
            (w.out / HOSTILE_PATH / "x",),
            (w.golds, "--golds", w.data, "--task", "LaMP-4"),
        ],
        "eval compare": [(w.run,), (w.run, HOSTILE), (w.run, "rag", HOSTILE), (w.sweep,)],
        "eval predictions": [
            (w.run, "rag", "--out", w.out / f"p{HOSTILE_PATH}"),
            (w.run, HOSTILE, "--out", w.out / "p"),
        ],
        "eval report": [
            (w.run, "--out", w.out / f"report{HOSTILE_PATH}"),
            (w.run, "--reference", HOSTILE),
            (w.sweep,),
        ],
        "eval download": [
            ("--task", "LaMP-4", "--to", w.out / "d", "--base", f"http://127.0.0.1:9/{MARKUP}", "--yes"),
            ("--task", "LaMP-4", "--to", w.out / "d", "--base", HOSTILE, "--yes"),
            ("--task", HOSTILE, "--to", w.out / "d"),
        ],
        "eval convert": [
            ("--task", "LaMP-4", "--data", w.data, "--out", w.out / f"c{HOSTILE_PATH}"),
            ("--task", "LaMP-4", "--data", w.out / HOSTILE_PATH, "--out", w.out / "c2"),
        ],
        "eval tasks": [()],
        "eval methods": [()],
        "trace list": [(), ("--user", ANN), ("--name", HOSTILE), ("--query", MARKUP)],
        "trace show": [(), ("--no-texts",), (HOSTILE,)],
        "trace diff": [(ANN,), (HOSTILE,), (ANN, 99)],
        "trace export": [
            (w.out / f"t{HOSTILE_PATH}",),
            (w.out / "t.jsonl", "--format", "jsonl"),
            (w.out / "no" / HOSTILE_PATH / "x",),
        ],
        "trace prune": [
            ("--older-than", "30d", "--dry-run"),
            ("--max-mb", "500"),
            (),
            ("--older-than", HOSTILE),
            ("--max-mb", "nan"),
        ],
        "trace serve": [("--port", 0)],
        "keys create": [("--user", ANN), ("--user", BOB, "--rights", HOSTILE), ("--user", HOSTILE)],
        "keys list": [()],
        "serve": [
            ("--port", 0),
            ("--port", 0, "--upstream", HOSTILE),
            ("--port", 0, "--host", HOSTILE, "--allow-host", HOSTILE),
            ("--port", 0, "--host", HOSTILE),
        ],
        "keys revoke": [(Keys(w.home).create(user_id=BOB)[1].id,), (HOSTILE,)],
        "users forget": [
            ("forgotten", "--yes", "--also", w.run),
            ("forgotten", "--yes", "--also", w.out / HOSTILE_PATH / "x"),
            (HOSTILE, "--yes"),
        ],
    }


def installed_commands() -> dict[str, Any]:
    """Every command of the app by its words."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        children: Mapping[str, Any] = getattr(command, "commands", {})
        if not children:
            yield " ".join(words), command
        for name, child in children.items():
            yield from walk(child, (*words, name))

    return dict(walk(typer.main.get_command(personaagent.command_line()), ()))


WITH_JSON = [
    name
    for name, command in installed_commands().items()
    if any("--json" in parameter.opts for parameter in command.params)
]


def controls_in(output: bytes) -> list[str]:
    """The characters of an output that `printable` escapes."""
    return [character for character in output.decode("utf-8") if printable(character) != character]


def strict_json(output: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(output.decode("utf-8"), parse_constant=refuse)


def test_every_command_of_the_app_is_tried(world: World) -> None:
    assert set(commands(world)) == set(installed_commands())


@pytest.mark.parametrize("command", installed_commands())
def test_command_prints_no_control_character(
    command: str, world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command in ("users import", "demo"):  # both add users
        monkeypatch.setattr("program.store.checks.find_unseen", lambda name: None)
    completed = [run(*command.split(), *line) for line in commands(world)[command]]
    assert [controls_in(each.out + each.err) for each in completed] == [[]] * len(completed)
    assert not any(b"Traceback" in each.err for each in completed)
    # The first line of each command works, so that not only errors are read.
    assert completed[0].code in ((1,) if command == "eval download" else (0,)), completed[0].err


@pytest.mark.parametrize("command", WITH_JSON)
def test_json_is_strict_and_free_of_control_characters(command: str, world: World, run: Run) -> None:
    for line in commands(world)[command]:
        completed = run(*command.split(), "--json", *line)
        assert controls_in(completed.out + completed.err) == []
        assert completed.code or strict_json(completed.out) is not None


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for printer in (console.out, console.err):
        monkeypatch.setattr(printer, "_force_terminal", True)
        monkeypatch.setattr(printer, "_color_system", ColorSystem.STANDARD)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    "command", ["ask", "align", "users show", "persona show", "persona diff", "eval score", "trace show"]
)
def test_terminal_gets_colours_and_cursor_movements_of_ours_only(
    command: str, world: World, run: Run
) -> None:
    completed = run(*command.split(), *commands(world)[command][0])
    output = completed.out + completed.err
    assert b"\x1b[31mred" not in output
    ours = re.compile(rb"\x1b\[[\d;]*m|\x1b\[\?25[hl]|\x1b\[1A|\x1b\[2K|\r")
    assert controls_in(ours.sub(b"", output)) == []


def test_ids_are_shown_as_they_are(world: World, run: Run) -> None:
    shown = printable(ANN).encode()
    for line in (("users", "list"), ("users", "show", ANN), ("align", ANN, *LOCAL)):
        assert shown in run(*line).out
    assert BOB.encode() in run("users", "list").out
    assert run("align", ANN, "--preset", "paper", *LOCAL).out
    assert MARKUP.encode() in run("persona", "show", ANN).out


def test_what_a_line_rests_on_is_printed_escaped(run: Run, tmp_path: Path) -> None:
    parts = Persona(facts=("counts",)).with_line(f"Likes {CONTROLS} tea.", ["1", "gone"]).as_dict()
    with UserStore(tmp_path / "users.db") as store:
        store.add_user("ana", task="free-text")
        store.append("ana", [Interaction(id="1", user_id="ana", query=MARKUP, response="Mint.")])
        store.add_persona("ana", "Likes tea.", source="edit", why="a test", parts=parts)
    shown = run("persona", "why", "ana", "--store", tmp_path / "users.db").out.decode()
    assert printable(CONTROLS)[:80] in shown
    assert not any(control in shown for control in CONTROLS if not control.isprintable())
    assert f"1: {MARKUP}"[:60] in shown
    assert "gone: forgotten" in shown
    assert "counted by code, since v1" in shown
    rows = strict_json(run("persona", "why", "ana", "--json", "--store", tmp_path / "users.db").out)["lines"]
    assert [row["interaction_ids"] for row in rows] == [["1"], ["1", "gone"]]


def test_persona_is_printed_with_its_own_spaces_and_kept_exactly_in_json(world: World, run: Run) -> None:
    text = f"a\tb  c \n\n  [x]{CONTROLS}"
    with UserStore(world.home / "users.db") as store:
        store.add_persona(ANN, text, source="edit", why=HOSTILE)
    assert run("persona", "show", ANN).out.decode() == printable(text) + "\n"
    assert strict_json(run("persona", "show", ANN, "--json").out)["text"] == text


def test_printed_command_can_be_pasted_into_a_shell(world: World, run: Run) -> None:
    hint = run("observe", ANN, "--query", "q", "--response", "r").err.decode()
    command = hint.removeprefix("recorded; `").partition("` learns")[0]
    shell = ["bash", "-c", f"personaagent() {{ printf '%s|' \"$@\"; }}; {command}"]
    words = subprocess.run(
        shell, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    ).stdout
    assert words.decode() == f"align|{ANN}|"


@pytest.mark.parametrize("word", [b"caf\xe9", b"\xff\xfe", b"ok\x80"])
def test_argument_that_is_not_utf_8_is_one_line_before_any_call(word: bytes, world: World, run: Run) -> None:
    before = len(MODELS.reply.engine.prompts)
    completed = run("ask", ANN, os.fsdecode(word), *LOCAL)
    assert (completed.code, completed.out, completed.err.count(b"\n")) == (2, b"", 1)
    assert b"is not valid UTF-8" in completed.err
    assert len(MODELS.reply.engine.prompts) == before


@pytest.mark.parametrize(
    "line", [("users", "list", "--store", ""), ("users", "list", "--store="), ("ask", ANN, " ")]
)
def test_empty_argument_is_one_line(line: tuple[str, ...], world: World, run: Run) -> None:
    completed = run(*line)
    assert (completed.code, completed.out, completed.err.count(b"\n")) == (2, b"", 1)
    assert b"is empty" in completed.err


NEEDED: dict[str, tuple[str, ...]] = {
    "ask": ("ana", "what now", *LOCAL),
    "observe": ("ana", "--query", "q", "--response", "r"),
    "align": ("ana", *LOCAL),
    "fleet status": (),
    "fleet cancel": ("--all",),
    "fleet retry": (),
    "fleet schedule": ("0 3 * * *",),
    "fleet unschedule": (),
    "worker": ("--drain",),
    "users import": ("history.jsonl",),
    "users list": (),
    "users show": ("ana",),
    "users export": ("ana",),
    "users correct": ("ana",),
    "users forget": ("ana", "--yes"),
    "users readmit": ("ana",),
    "interactions list": ("ana",),
    "interactions forget": ("ana", "i1", "--yes"),
    "store compact": (),
    "store audit": (),
    "persona show": ("ana",),
    "persona why": ("ana",),
    "why": ("ana",),
    "persona page": ("ana",),
    "persona history": ("ana",),
    "persona diff": ("ana",),
    "persona rollback": ("ana", "1"),
    "persona approve": ("ana",),
    "persona pin": ("ana", "1"),
    "persona unpin": ("ana",),
    "users costs": (),
    "demo": MODEL,
    "eval run": ("--task", "LaMP-2M", "--data", str(SAMPLE), "--method", "rag", "--out", "run", *MODEL),
    "trace list": (),
    "trace show": (),
    "trace prune": ("--max-mb", "500"),
    "trace diff": ("ana",),
    "trace export": ("t.html",),
    "trace serve": (),
    "serve": ("--port", "0"),
    "keys create": ("--user", "ana"),
    "keys list": (),
    "keys revoke": ("0123456789ab",),
}
"""The commands that use the data directory, with their other arguments."""

WITH_STORE = [
    name
    for name, command in installed_commands().items()
    if any("--store" in parameter.opts for parameter in command.params)
]


def _unusable(kind: str, folder: Path) -> str:
    file = folder / "in_the_way"
    file.write_text("a file", encoding="utf-8")
    if kind == "read-only folder":
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
    paths = {
        "file in the way": file,
        "inside a file": file / "x",
        "read-only folder": folder / "x",
        "not UTF-8": os.fsdecode(bytes(folder) + b"/caf\xe9"),
        "name too long": folder / ("x" * 300),
    }
    return str(paths[kind])


@pytest.mark.parametrize(
    "kind", ["file in the way", "inside a file", "read-only folder", "not UTF-8", "name too long"]
)
def test_data_directory_that_cannot_be_used_is_one_line(
    kind: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _unusable(kind, tmp_path)
    monkeypatch.setenv("PERSONAAGENT_HOME", home)
    monkeypatch.chdir(tmp_path)
    before = len(MODELS.reply.engine.prompts)
    for command, needed in NEEDED.items():
        completed = run(*command.split(), *needed)
        assert (completed.code, completed.out) == (2, b""), command
        assert re.fullmatch(rb"error: [^\n]*PERSONAAGENT_HOME[^\n]*\n", completed.err), command
    assert len(MODELS.reply.engine.prompts) == before


@pytest.mark.parametrize("command", WITH_STORE)
def test_store_that_cannot_be_opened_is_one_line(command: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "in_the_way"
    file.write_text("a file", encoding="utf-8")
    before = len(MODELS.reply.engine.prompts)
    for store in (tmp_path, file, file / "x", tmp_path / "no" / "x", tmp_path / ("x" * 300), "nosql://x"):
        completed = run(*command.split(), *NEEDED[command], "--store", store)
        assert completed.code in (1, 2)
        assert (completed.out, completed.err.count(b"\n")) == (b"", 1)
        assert completed.err.startswith(b"error: ")
    assert len(MODELS.reply.engine.prompts) == before
    assert file.read_text(encoding="utf-8") == "a file"


@pytest.mark.parametrize(
    "line",
    [
        ("eval", "run", *EVAL, "--data", "DATA", "--out", "PATH"),
        ("eval", "sweep", *EVAL, "--data", "DATA", "--over", "k=1,2", "--out", "PATH"),
        ("eval", "predictions", "RUN", "rag", "--out", "PATH"),
        ("eval", "report", "RUN", "--out", "PATH"),
        ("eval", "convert", "--task", "LaMP-4", "--data", "DATA", "--out", "PATH"),
        ("eval", "download", "--task", "LaMP-4", "--yes", "--base", "http://127.0.0.1:9", "--to", "PATH"),
        ("trace", "export", "PATH"),
        ("trace", "export", "PATH", "--format", "jsonl"),
    ],
)
def test_output_that_cannot_be_written_is_one_error_before_any_call(
    line: tuple[str, ...], world: World, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "in_the_way"
    file.write_text("a file", encoding="utf-8")
    before = len(MODELS.reply.engine.prompts)
    for path in (file / "x", file / "x" / "y", tmp_path / ("x" * 300)):
        places = {"PATH": str(path), "DATA": str(world.data), "RUN": str(world.run)}
        completed = run(*(places.get(word, word) for word in line))
        assert completed.code in (1, 2)
        assert completed.out == b""
        assert [row for row in completed.err.split(b"\n") if row][-1].startswith(b"error: ")
        assert b"Traceback" not in completed.err
    assert len(MODELS.reply.engine.prompts) == before
    assert file.read_text(encoding="utf-8") == "a file"


@pytest.mark.parametrize(
    "words",
    [
        ("persona", "show", ANN, "--version", "9" * 30),
        ("persona", "rollback", ANN, "9" * 30),
        ("persona", "diff", ANN, "0"),
        ("trace", "list", "--limit", "9" * 30),
        ("trace", "diff", ANN, "0"),
        ("align", ANN, "--max-usd", "nan"),
        ("align", ANN, "--max-calls", "-1"),
        ("align", ANN, "--batch", "0"),
        ("ask", ANN, "x", "--adapter", "xml"),
        ("demo", "--queries", "0"),
        ("eval", "run", "--temperature", "nan"),
        ("eval", "run", "--max-usd", "-1"),
    ],
)
def test_number_or_choice_out_of_range_is_one_line(words: tuple[str, ...], world: World, run: Run) -> None:
    completed = run(*words)
    assert completed.code in (1, 2)
    assert (completed.out, completed.err.count(b"\n")) == (b"", 1)
    assert completed.err.startswith(b"error: ")


@pytest.mark.parametrize("logger", ["personaagent", "dspy", "some_library"])
def test_log_line_of_a_library_is_escaped(
    logger: str, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the test runner's own handlers, as on the command line.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    guarded(lambda: logging.getLogger(logger).error(HOSTILE))
    captured = capfdbinary.readouterr()
    assert MARKUP.encode() in captured.err
    assert controls_in(captured.err) == []


def test_version_is_printed(run: Run) -> None:
    assert run("--version").out.decode() == f"personaagent {personaagent.__version__}\n"
