"""The command line: output, one-line errors and exit codes."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import dspy
import pytest

import personaagent
from program.cli.options import guarded
from program.models.adapter import use_adapter
from program.models.scripted import scripted_lm

ROWS = [
    {"user_id": "ana", "id": str(n), "query": f"what about number {n}", "response": f"reply {n}"}
    for n in range(5)
]


class Completed(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Completed]


def polite(system: str, user: str) -> Any:
    if "write the feedback" in user:
        return "Be brief."
    if "write the new system prompt" in user:
        return "You are brief."
    if "write the profile" in user:
        return "Likes brevity."
    if "write the answer" in user:
        return "short"
    return {"thought": "", "action": {"tool": "finish", "answer": "short"}}


def edit(system: str, user: str) -> Any:
    if "You maintain the list" in system:
        line = {"op": "add", "line": 0, "text": "Answers in one word.", "cites": [1]}
        return {"edits": [line, {"op": "show", "text": "counts"}]}
    return polite(system, user)


def outage(system: str, user: str) -> Any:
    raise dspy.LMServerError("down")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    models = ModuleType("my_models")
    models.polite = scripted_lm(polite)  # type: ignore[attr-defined]
    models.cached = scripted_lm(polite).copy()  # type: ignore[attr-defined]
    models.cached.cache = True
    models.editor = scripted_lm(edit)  # type: ignore[attr-defined]
    models.outage = scripted_lm(outage)  # type: ignore[attr-defined]
    models.garbage = scripted_lm(lambda system, user: " ")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_models", models)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> Completed:
        app = personaagent.command_line()
        code = guarded(lambda: app(list(words)))
        captured = capsys.readouterr()
        return Completed(code, captured.out, captured.err)

    return call


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


MODEL = ("--model", "python:my_models:polite", "--no-wikipedia", "--trace", "off")


def test_import_ask_align_rollback_and_observe_work_in_sequence(run: Run, history: Path) -> None:
    assert run("users", "import", str(history)).out.startswith("1 user, 5 interactions, 5 new")
    assert "5 interactions, 0 new" in run("users", "import", str(history)).out
    listed = json.loads(run("users", "list", "--json").out)
    (ana,) = listed
    assert (ana["user_id"], ana["interactions"], ana["persona_version"]) == ("ana", 5, None)
    assert (ana["task"], ana["pinned"], ana["stale"], ana["calls"], ana["usd"]) == (
        "free-text",
        None,
        True,
        0,
        0,
    )
    assert ana["stale_since"]
    answered = run("ask", "ana", "what now", *MODEL)
    assert (answered.code, answered.out) == (0, "short\n")
    assert "search_memory(what now) (first)" in answered.err
    editor = ("--model", "python:my_models:editor", *MODEL[2:])
    aligned = json.loads(run("align", "ana", "--gate", "always", *editor, "--json").out)
    assert aligned[0]["persona_version"] == 2
    assert aligned[0]["agent_runs"] == 3
    assert "\n- Answers in one word.\n" in run("persona", "show", "ana").out
    assert "+- Answers in one word." in run("persona", "diff", "ana").out
    versions = json.loads(run("persona", "history", "ana", "--json").out)
    assert [(v["version"], v["parent"], v["source"]) for v in versions] == [
        (1, None, "initial"),
        (2, 1, "alignment"),
    ]
    assert all(v["time"].endswith("+00:00") for v in versions)
    assert run("persona", "rollback", "ana", "1").out == "v3 has the text of v1\n"
    assert run("observe", "ana", "--query", "q", "--response", "r").code == 0
    shown = run("users", "show", "ana").out
    assert "ana  free-text, 6 interactions\n" in shown
    assert "\nLatest interactions:\n  r: q\n" in shown
    assert re.search(r"\nAlignments:\n  \d{4}-\d\d-\d\d \d\d:\d\d UTC: done\n\nCosts:\n", shown)


def test_forget_removes_the_user_from_store_cache_and_traces(run: Run, history: Path, tmp_path: Path) -> None:
    run("users", "import", str(history))
    cached = ("--model", "python:my_models:cached", "--no-wikipedia")
    run("ask", "ana", "what about number 3", *cached)
    cached_files = [file for file in (tmp_path / "home" / "cache").rglob("*") if file.is_file()]
    assert any(b"Likes brevity" in file.read_bytes() for file in cached_files)
    kinds = [trace["name"] for trace in json.loads(run("trace", "list", "--json").out)]
    assert kinds == ["ask", "profile"]
    assert run("users", "forget", "ana", "--yes").code == 0
    assert json.loads(run("trace", "list", "--json").out) == []
    assert json.loads(run("users", "list", "--json").out) == []
    for file in (file for file in (tmp_path / "home").rglob("*") if file.is_file()):
        assert b"what about number 3" not in file.read_bytes()
        assert b"Likes brevity" not in file.read_bytes()


def test_every_command_has_help_and_is_in_the_readme(run: Run) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for command in ("demo", "users import", "ask", "observe", "align", "persona", "eval run", "trace"):
        assert f"personaagent {command}" in readme
        assert run(*command.split(), "--help").code == 0


def test_unknown_user_fails_with_a_suggestion(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    for command in (
        ("ask", "anna", "x"),
        ("align", "anna"),
        ("persona", "show", "anna"),
        ("users", "show", "anna"),
    ):
        completed = run(*command)
        assert completed.code == 1
        assert completed.out == ""
        assert "'anna'" in completed.err
        assert "ana" in completed.err
        assert "personaagent users list" in completed.err


def test_align_without_history_fails(run: Run, tmp_path: Path) -> None:
    from program.store import UserStore

    with UserStore(tmp_path / "users.db") as store:
        store.add_user("new", task="free-text")
    completed = run("align", "new", *MODEL, "--store", str(tmp_path / "users.db"))
    assert completed.code == 1
    assert "no interaction to learn from" in completed.err


def test_bad_line_names_file_and_line_and_stores_nothing(run: Run, history: Path) -> None:
    with history.open("a", encoding="utf-8") as file:
        file.write('{"user_id": "bo", "query": \n')
    completed = run("users", "import", str(history))
    assert completed.code == 1
    assert "history.jsonl" in completed.err
    assert "6" in completed.err
    assert json.loads(run("users", "list", "--json").out) == []
    skipped = run("users", "import", str(history), "--skip-bad")
    assert skipped.code == 4
    assert "5 new, 1 bad" in skipped.out


def test_label_outside_the_task_is_rejected(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tags.jsonl"
    path.write_text(
        json.dumps({"user_id": "ana", "query": "a film", "response": "Comedy!"}), encoding="utf-8"
    )
    completed = run("users", "import", str(path), "--task", "LaMP-2M")
    assert completed.code == 1
    assert "'Comedy!'" in completed.err
    good = path.with_name("good.jsonl")
    good.write_text(json.dumps({"user_id": "ana", "query": "a film", "response": "comedy"}), encoding="utf-8")
    run("users", "import", str(good), "--task", "LaMP-2M")
    completed = run("observe", "ana", "--query", "another film", "--response", "funny")
    assert completed.code == 1
    assert "`response`" in completed.err
    assert "comedy" in completed.err


def test_two_users_with_the_same_id_are_rejected(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    item = {"id": "1", "tag": "comedy", "description": "a film"}
    path.write_text(json.dumps([{"user_id": "ana", "profile": [item], "query": []}] * 2), encoding="utf-8")
    completed = run("users", "import", str(path), "--format", "oppu", "--task", "LaMP-2M")
    assert completed.code == 1
    assert "'ana'" in completed.err


def test_file_that_is_not_a_database_is_not_changed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, not a database" * 100, encoding="utf-8")
    before = path.read_bytes()
    completed = run("users", "list", "--store", str(path))
    assert completed.code == 1
    assert "notes.db" in completed.err
    assert path.read_bytes() == before


def test_database_of_another_program_is_rejected(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table mine (x)")
    connection.close()
    assert run("users", "list", "--store", str(path)).code == 1


def test_unparsable_model_answer_exits_with_3(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    completed = run(
        "ask", "ana", "x", "--model", "python:my_models:garbage", "--no-wikipedia", "--trace", "off"
    )
    assert completed.code == 3
    assert completed.out == ""


def test_model_outage_stops_align_and_keeps_the_persona(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    run("ask", "ana", "x", *MODEL)
    completed = run(
        "align", "--all", "--model", "python:my_models:outage", "--no-wikipedia", "--trace", "off"
    )
    assert completed.code == 3
    assert len(json.loads(run("persona", "history", "ana", "--json").out)) == 1
    assert "had a server error" in completed.err


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("openai/gpt-4o-mini", "export OPENAI_API_KEY"),
        ("gguf:nowhere.gguf", "nowhere.gguf"),
        ("gpt", "`embedded`"),
        ("python:my_models:nobody", "nobody"),
    ],
)
def test_model_that_is_not_set_up_prints_one_line(
    run: Run, history: Path, monkeypatch: pytest.MonkeyPatch, model: str, says: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run("users", "import", str(history))
    completed = run("ask", "ana", "x", "--model", model, "--trace", "off")
    assert completed.code == 2
    assert says in completed.err
    assert len(completed.err.strip().splitlines()) == 1


def test_exceeded_budget_is_reported_and_keeps_the_persona(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    completed = run("align", "ana", *MODEL, "--max-calls", "4")
    assert completed.code == 3
    assert "the limit is 4 calls" in completed.err
    assert [v["version"] for v in json.loads(run("persona", "history", "ana", "--json").out)] == [1]


def test_align_requires_users_or_all(run: Run) -> None:
    assert run("align").code == 2
    assert run("align", "ana", "--all").code == 2
    assert run("align", "ana", "--steps", "-1").code == 2


def test_diff_of_a_first_version_has_no_difference(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    run("ask", "ana", "x", *MODEL)
    assert run("persona", "diff", "ana").out.strip() == "no difference"


def test_persona_of_an_unaligned_user_names_the_next_command(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    completed = run("persona", "show", "ana")
    assert (completed.code, completed.out) == (1, "")
    assert "personaagent align ana" in completed.err


def test_rollback_to_a_missing_version_changes_nothing(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    run("ask", "ana", "x", *MODEL)
    completed = run("persona", "rollback", "ana", "7")
    assert completed.code == 1
    assert "has no persona version 7" in completed.err
    assert len(json.loads(run("persona", "history", "ana", "--json").out)) == 1


def test_persona_text_is_printed_without_markup(run: Run, history: Path, tmp_path: Path) -> None:
    from program.store import UserStore

    run("users", "import", str(history))
    with UserStore(tmp_path / "home" / "users.db") as store:
        store.add_persona("ana", "Use [bold] words.", source="edit", why="w")
    assert run("persona", "show", "ana").out == "Use [bold] words.\n"


def test_ask_prints_json_with_answer_steps_and_usage(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    answer = json.loads(run("ask", "ana", "what now", *MODEL, "--json").out)
    assert (answer["answer"], answer["persona_version"]) == ("short", 1)
    assert [step["tool"] for step in answer["steps"]] == ["search_memory"]
    assert answer["usage"]["calls"] == 3
    assert set(answer) == {"answer", "probabilities", "persona_version", "steps", "usage", "seconds"}


def test_observe_prints_the_id_of_the_stored_interaction(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    observed = json.loads(run("observe", "ana", "--query", "q", "--response", "r", "--json").out)
    assert observed["user_id"] == "ana"
    summary = json.loads(run("users", "show", "ana", "--json").out)
    assert (summary["interactions"], summary["stale"], summary["alignments"]) == (6, True, [])


def test_forget_without_confirmation_deletes_nothing(
    run: Run, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("users", "import", str(history))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("users", "forget", "ana").code == 1
    assert len(json.loads(run("users", "list", "--json").out)) == 1


def test_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupted) == 130
    assert "Finished work is stored." in capsys.readouterr().err


class Panic(BaseException):
    """What extension modules raise: no `Exception`."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("debug", ["", "0", "1"])
@pytest.mark.parametrize("kind", [KeyError, AssertionError, Panic, Speechless])
@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["users", "list"], "program.cli.users.open_store"),
        (["align", "--all"], "optimizers.cli.open_store"),
        (["eval", "methods"], "eval.cli.catalog.print_json"),
    ],
)
def test_bug_is_one_escaped_line_and_its_traceback_only_on_request(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    debug: str,
    kind: type[BaseException],
    words: list[str],
    called: str,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise kind("Ana's secret \x1b]0;title\x07 \u202e\nsecond line")

    monkeypatch.setenv("PERSONAAGENT_DEBUG", debug)
    monkeypatch.setattr(called, broken)
    monkeypatch.setattr(sys, "argv", ["personaagent", *words, *(["--json"] if words[0] == "eval" else [])])
    with pytest.raises(SystemExit) as end:
        personaagent.main()
    *above, line = capsys.readouterr().err.splitlines()
    assert end.value.code == 5
    assert line.startswith("error: unexpected ")
    assert kind.__name__ in line
    assert "this is a bug" in line
    assert ("Traceback" in "".join(above)) == (debug == "1")
    assert debug == "1" or not above
    assert not set("\x1b\x07\u202e") & set("".join([*above, line]))


@pytest.mark.parametrize("adapter", ["schema", "json", "text"])
def test_adapter_decides_the_form_of_every_request(
    run: Run, history: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    forms: list[str | None] = []

    @contextmanager
    def note(form: str | None) -> Iterator[None]:
        forms.append(form)
        with use_adapter(form):
            yield

    monkeypatch.setattr("program.models.adapter.use_adapter", note)
    run("users", "import", str(history))
    lm = scripted_lm(marked if adapter == "text" else polite)
    monkeypatch.setattr(sys.modules["my_models"], "polite", lm)
    assert run("ask", "ana", "what now", *MODEL, "--adapter", adapter).out == "short\n"
    assert run("align", "ana", *MODEL, "--adapter", adapter, "--json").code == 0
    assert forms == [adapter, adapter]
    with_markers = ["[[ ## action ## ]]" in system + user for system, user in lm.engine.prompts]
    assert any(with_markers) == (adapter == "text")


def marked(system: str, user: str) -> Any:
    """Answer like `polite`, in fields with markers instead of JSON."""
    answer = polite(system, user)
    if isinstance(answer, str):
        return answer
    fields = {**answer, "action": json.dumps(answer["action"]), "answer": "short", "completed": ""}
    return "\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())


def test_grounded_preset_edits_lines_that_why_explains(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    refused = run("align", "ana", "--preset", "papr", *MODEL)
    assert (refused.code, "must be one of paper, grounded" in refused.err) == (2, True)
    editor = ("--model", "python:my_models:editor", *MODEL[2:])
    done = run("align", "ana", "--preset", "grounded", "--gate", "always", *editor)
    assert done.code == 0, done.err
    why = run("persona", "why", "ana")
    assert "Answers in one word.  (learned, since v2)" in why.out
    assert "2: what about number 2" in why.out
    assert "counted by code, since v2" in why.out
    assert "- Answers in one word." in run("persona", "show", "ana").out
    run("persona", "rollback", "ana", "1")
    assert run("persona", "why", "ana").out.startswith("v3 says nothing about the user")


def test_why_says_that_nothing_is_known_of_a_free_rewrite(run: Run, history: Path) -> None:
    run("users", "import", str(history))
    run("align", "ana", "--preset", "paper", *MODEL)
    assert "written freely" in run("persona", "why", "ana").out
    assert json.loads(run("persona", "why", "ana", "--json").out) == {"version": 2, "lines": None}
