r"""What every command prints: users' and models' texts are data, never markup and never terminal controls.

The commands come from the app itself, so that a new command without a call here fails.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from rich.color import ColorSystem

import personaagent
from program.cli.options import guarded
from program.console import err, out
from program.models.scripted import scripted_lm
from program.printer import command
from program.store import UserStore
from program.store.importers import import_users
from program.tracing.server.http_server import TraceServer

ESCAPES = "\x1b[2J\x1b]52;c;QUFB\x07\x1b]0;title\x1b\\\x9b31m\x9d0;t\x9c\x08\x7f\u202etxt\u2066\u061c\u200f"
MARKUP = "[red]a[/] [/nothing] [link=http://x]b :smile: \\[x]"
HOSTILE = f"{MARKUP} {ESCAPES} $(id) 'q' \"q\" `w`"
ARTICLE = f"Generate a headline for the following article: {HOSTILE}"
USERS = [
    "team[/eu]",
    "[red]ann",
    f"esc{ESCAPES}",
    f"cells=1|2 {MARKUP}",
    "-dash",
    'quo\'te $(id) "x" `w`',
    "two\tcells\nand lines\r\u2028end",
]
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
RICH = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[hl]|[0-9]*A|[0-9]*K)|\r")
"""What Rich writes on a terminal: colours, and the cursor movements of a progress bar."""
MODEL = ["--model", "python:hostile_models:hostile"]
TASK = ["--task", "LaMP-4"]


def reply(system: str, user: str) -> Any:
    text = f"{HOSTILE} and half \ud83d"
    if "write the feedback" in user or "write the new system prompt" in user or "write the profile" in user:
        return f"You help someone. {text}"
    if "`action`" in user:
        return {"thought": text, "action": {"tool": "finish", "answer": text}}
    return {"answer": text} if "`answer`" in user else text


class World:
    """A home with hostile users, personas and traces, and a run folder with hostile data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.data = folder / "data.json"
        self.sample = folder / "sample.json"
        self.run = folder / "run"
        self.history = folder / "history.jsonl"

    def build(self) -> None:
        rows = [
            {"user_id": f"u{number}", "query": f"{n} {HOSTILE}", "response": f"{n} {HOSTILE}"}
            for number in range(len(USERS))
            for n in range(3)
        ]
        self.history.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        people = [
            {
                "user_id": user,
                "profile": [
                    {"id": f"{number}{n}", "title": f"{n} {HOSTILE}", "text": HOSTILE} for n in "123"
                ],
                "query": [
                    {
                        "id": f"{number}q",
                        "input": f"Generate a headline for the following article: {HOSTILE}",
                        "gold": HOSTILE,
                    }
                ],
            }
            for number, user in enumerate(USERS[:3])
        ]
        self.data.write_text(json.dumps(people), encoding="utf-8")
        # A store takes no control characters in ids.
        self.sample.write_text(json.dumps(people[:2]), encoding="utf-8")
        with UserStore(self.home / "users.db") as store:
            import_users(store, self.history)
        self._rename_users()
        with UserStore(self.home / "users.db") as store:
            for user in USERS:
                store.add_persona(user, f"First persona. {HOSTILE}", source="edit", why=HOSTILE)
                store.add_persona(user, f"Second persona\n{HOSTILE}", source="edit", why=HOSTILE)
        run = ["eval", "run", *TASK, "--data", str(self.data), "--method", "direct,floors", *MODEL]
        for call in (
            ["align", *MODEL, "--all", "--steps", "1", "--batch", "1", "--no-wikipedia"],
            [*run, "--out", str(self.run), "--trace", "off"],
        ):
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                code = invoke(*call)
            assert code == 0, text.getvalue()

    def _rename_users(self) -> None:
        """Give the users ids that older versions took and the importers now refuse."""
        with contextlib.closing(sqlite3.connect(self.home / "users.db")) as database, database:
            database.execute("pragma defer_foreign_keys = on")
            tables = [
                row[0] for row in database.execute("select name from sqlite_master where type = 'table'")
            ]
            for table in tables:
                if any(row[1] == "user_id" for row in database.execute(f"pragma table_info({table})")):
                    database.executemany(
                        f"update {table} set user_id = ? where user_id = ?",
                        [(user, f"u{number}") for number, user in enumerate(USERS)],
                    )


GROUP = typer.main.get_command(personaagent.command_line())


def invoke(*words: str) -> int:
    return guarded(lambda: GROUP(list(words)))


def on_users(*words: str, more: list[str] | None = None) -> Callable[[World], list[list[str]]]:
    return lambda world: [[*words, *(more or []), "--", user] for user in USERS]


def once(*words: str) -> Callable[[World], list[list[str]]]:
    return lambda world: [[word.format(world=world) for word in words]]


RUN = [*TASK, "--data", "{world.data}", "--method", "direct", *MODEL, "--trace", "off", "--temperature", "0"]
CALLS: dict[str, Callable[[World], list[list[str]]]] = {
    "demo": once("demo", *TASK, "--data", "{world.sample}", "--queries", "1", *MODEL, "--user", USERS[1]),
    "users import": once("users", "import", "{world.history}"),
    "users list": once("users", "list"),
    "users show": on_users("users", "show"),
    "users forget": on_users("users", "forget", "--yes"),
    "ask": lambda world: [["ask", "--no-wikipedia", *MODEL, "--", user, HOSTILE] for user in USERS[1:3]],
    "observe": on_users("observe", "--query", HOSTILE, "--response", HOSTILE),
    "align": lambda world: [
        ["align", "--no-wikipedia", "--steps", "1", "--batch", "1", *MODEL, "--", *USERS[1:3]]
    ],
    "persona show": on_users("persona", "show"),
    "persona history": on_users("persona", "history"),
    "persona diff": on_users("persona", "diff"),
    "persona rollback": lambda world: [["persona", "rollback", "--", user, "1"] for user in USERS],
    "eval run": once("eval", "run", *RUN, "--out", f"{{world.folder}}/[red]{ESCAPES[:4]}"),
    "eval sweep": once("eval", "sweep", *RUN, "--over", "seed=1", "--out", "{world.folder}/[red]sweep"),
    "eval score": once("eval", "score", "{world.run}"),
    "eval compare": once("eval", "compare", "{world.run}", "direct"),
    "eval predictions": once("eval", "predictions", "{world.run}", "direct", "--out", "{world.folder}/[b]p"),
    "eval report": once("eval", "report", "{world.run}", "--out", "{world.folder}/[red]report"),
    "eval download": once(
        "eval", "download", *TASK, "--to", "{world.folder}/got", "--base", f"http://h/{HOSTILE}", "--yes"
    ),
    "eval convert": once(
        "eval", "convert", *TASK, "--data", "{world.data}", "--out", "{world.folder}/[red]a"
    ),
    "eval tasks": once("eval", "tasks"),
    "eval methods": once("eval", "methods"),
    "trace list": once("trace", "list"),
    "trace show": once("trace", "show"),
    "trace diff": on_users("trace", "diff"),
    "trace export": once("trace", "export", "{world.folder}/[red]page.html"),
    "trace serve": once("trace", "serve", "--port", "0", "--key", HOSTILE),
}
FAILS = {"eval download"}
"""Commands that print an error here: there is no such server."""


def commands() -> dict[str, Any]:
    """Every command of the app, by its words."""
    found: dict[str, Any] = {}

    def walk(group: Any, words: tuple[str, ...]) -> None:
        for name, item in group.commands.items():
            if hasattr(item, "commands"):
                walk(item, (*words, name))
            else:
                found[" ".join((*words, name))] = item

    walk(GROUP, ())
    return found


COMMANDS = commands()


def options_of(name: str) -> set[str]:
    return {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("hostile"))
    world.home.mkdir()
    models = ModuleType("hostile_models")
    models.hostile = scripted_lm(reply)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "hostile_models", models)
        patch.setenv("PERSONAAGENT_HOME", str(world.home))
        world.build()
        yield world


@pytest.fixture
def world(built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    folder = tmp_path / "world"
    shutil.copytree(built.folder, folder)
    monkeypatch.setenv("PERSONAAGENT_HOME", str(folder / "home"))
    monkeypatch.setattr(TraceServer, "serve_forever", _interrupt)
    return World(folder)


def _interrupt(server: TraceServer) -> None:
    raise KeyboardInterrupt


def test_every_command_of_the_app_is_called_here() -> None:
    assert set(CALLS) == set(COMMANDS)


def test_commands_with_a_model_let_the_adapter_be_chosen() -> None:
    assert {name for name in COMMANDS if "--adapter" in options_of(name)} == {
        name for name in COMMANDS if "--model" in options_of(name)
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_prints_a_control_character(
    name: str, world: World, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for call in CALLS[name](world):
        code = invoke(*call)
        captured = capsysbinary.readouterr()
        text = (captured.out + captured.err).decode("utf-8", "strict")
        assert not CONTROLS.search(text), (call, text)
        assert (code != 0) == (name in FAILS), text
        if name in FAILS:
            assert captured.err.startswith(b"error: ")
            assert captured.err.count(b"\n") == 1


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"eval report", "eval sweep"}))
def test_only_rich_moves_the_cursor_on_a_terminal(
    name: str, world: World, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for console in (out, err):
        monkeypatch.setattr(console, "_force_terminal", True)
        monkeypatch.setattr(console, "_color_system", ColorSystem.STANDARD)
    for call in CALLS[name](world)[:3]:
        invoke(*call)
        captured = capsysbinary.readouterr()
        text = RICH.sub("", (captured.out + captured.err).decode("utf-8", "strict"))
        assert not CONTROLS.search(text), (call, text)


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("name", [name for name in sorted(COMMANDS) if "--json" in options_of(name)])
def test_json_is_strict_and_escapes_control_characters(
    name: str, world: World, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for call in CALLS[name](world):
        place = call.index("--") if "--" in call else len(call)
        invoke(*call[:place], "--json", *call[place:])
        text = capsysbinary.readouterr().out.decode("utf-8", "strict")
        assert not CONTROLS.search(text)
        if name not in FAILS:
            json.loads(text, parse_constant=refuse_constant)


def test_lists_show_ids_as_they_are(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    invoke("users", "list")
    listed = capsys.readouterr().out
    for user in ("team[/eu]", "[red]ann", "-dash", 'quo\'te $(id) "x" `w`'):
        assert user in listed
    invoke("users", "list", "--json")
    assert {row["user_id"] for row in json.loads(capsys.readouterr().out)} == set(USERS)


@pytest.mark.parametrize("user", [user for user in USERS if user.isprintable()])
def test_printed_commands_can_be_pasted(user: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    invoke("observe", "--query", "q", "--response", "r", "--", user)
    (pasted,) = re.findall(r"`(personaagent align .*)` learns", capsys.readouterr().err)
    assert shlex.split(pasted)[-1] == user


@pytest.mark.parametrize("user", USERS)
def test_a_shell_reads_a_printed_command_as_it_was_meant(user: str) -> None:
    line = command("ask", user, "and 'then'?").replace("personaagent", "printf '%s\\0'", 1)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    read = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env=environment)
    words = [word for word in read.stdout.decode().split("\0")[:-1] if word != "--"]
    assert words == ["ask", user, "and 'then'?"]


PATHS = ("--out", "--to", "--store", "--data", "--negatives", "--golds")


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in sorted(COMMANDS) for option in PATHS if option in options_of(name)],
)
def test_path_that_cannot_be_used_is_one_line_before_any_call(
    name: str, option: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = sys.modules["hostile_models"].hostile.engine.prompts
    before = len(prompts)
    # A file in the way, a folder that nobody can create, and a name that is not UTF-8.
    for path in (f"{world.data}/in/file", "/proc/none/in/file", f"{world.folder}/caf\udce9"):
        call = CALLS[name](world)[0]
        if option in call:
            call[call.index(option) + 1] = path
        else:
            call[len(name.split()) : len(name.split())] = [option, path]
        code = invoke(*call, *(TASK if name == "eval score" else ()))
        printed = capsys.readouterr()
        assert code in (1, 2), printed
        assert printed.err.splitlines()[-1].startswith("error: ")
        assert (printed.err.count("error: "), "Traceback" in printed.err) == (1, False)
    assert len(prompts) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_home_that_cannot_be_used_is_one_line(
    name: str, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("PERSONAAGENT_HOME", str(world.folder / "file" / "home"))
    code = invoke(*CALLS[name](world)[0])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    if code:
        assert printed.err.count("error: ") == 1, printed.err


def test_argument_that_is_not_utf_8_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("ask", "ana", os.fsdecode(b"caf\xe9")) == 2
    assert capsys.readouterr().err == (
        "error: argument 3, 'caf\\udce9', is not valid UTF-8; write it in UTF-8, and rename a file that has "
        "such a name\n"
    )


def run_alone(world: World, *words: str, script: str = "{}", **environment: str) -> Any:
    """Run a command in a process of its own, in the shell line ``script``."""
    line = script.format(shlex.join([sys.executable, "-m", "personaagent", *words]))
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        cwd=Path(personaagent.__file__).parent,
        env={**os.environ, **environment},
        check=False,
    )


def test_output_that_is_not_utf_8_shows_escapes(world: World) -> None:
    ran = run_alone(world, "users", "list", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (ran.returncode, ran.stderr.count(b"Traceback")) == (0, 0)
    assert ran.stdout.isascii()
    assert b"team[/eu]" in ran.stdout


@pytest.mark.parametrize("script", ["{} | true", "{} > /dev/full"])
def test_output_that_cannot_be_written_ends_without_a_traceback(world: World, script: str) -> None:
    ran = run_alone(world, "users", "list", script=script)
    assert b"Traceback" not in ran.stderr
    assert ran.stderr.count(b"\n") <= 2, ran.stderr


def test_folder_without_space_is_one_line(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("eval report", "eval predictions", "trace export"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            patch.setattr(Path, "open", full)
            patch.setattr("builtins.open", full)
            code = invoke(*CALLS[name](world)[0])
        printed = capsys.readouterr().err
        assert (code, printed.count("\n"), printed.startswith("error: ")) == (1, 1, True), printed
        assert "No space left" in printed


def test_warnings_of_the_package_are_escaped_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("personaagent.program.models")

    def work() -> None:
        logger.warning("%s: retry %d in %.0f s", f"[red]model{ESCAPES}\n", 1, 7)
        logger.info("not for people")

    assert guarded(work) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("warning: [red]model\\x1b[2J")
    assert printed.err.endswith(": retry 1 in 7 s\n")
    assert printed.err.count("\n") == 1
    assert not CONTROLS.search(printed.err)
    assert not logging.getLogger("personaagent").handlers
