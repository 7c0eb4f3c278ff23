"""An export of a person: what it holds, and what an import of it brings back."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimizers import align_user
from program import (
    Interaction,
    Persona,
    Usage,
    UserStore,
    export_user,
    import_users,
    open_session,
    open_tracer,
    scripted_lm,
)
from program.errors import DataError, UnknownUserError
from program.home import home
from program.serve.keys import Keys

CARRIED = ("user", "interactions", "profile", "personas")


def said(number: int, user: str = "ana", query: str = "a film") -> Interaction:
    time = datetime(2026, 1, number + 1, 12, 30, 15, 1234, tzinfo=timezone.utc)
    return Interaction(
        id=f"i{number}",
        user_id=user,
        query=f"  {query} {number}\n",
        response="action",
        timestamp=time if number else None,
        metadata={"app": "é \u202e", "empty": ""},
    )


def answer(system: str, user: str) -> Any:
    if "critical evaluator" in system:
        return "This user calls heists action."
    if "refine the system prompt" in system:
        return "This user likes action."
    return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}, "answer": "comedy"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "users.db") as store:
        store.append("ana", [said(number) for number in range(6)], task="LaMP-2M")
        store.append("bo", [said(1, "bo", "BOSECRET")], task="LaMP-2M")
        yield store


@pytest.fixture
def lived(store: UserStore) -> UserStore:
    """Ana with something in every place."""
    from optimizers import PAPER

    with open_tracer("local"), dspy.context(lm=scripted_lm(answer)):
        align_user(store, "ana", PAPER, wikipedia=False)
        open_session(store, "bo", wikipedia=False).agent(query="BOSECRET?")
    parts = Persona().with_line("Likes heists.", ["i2"])
    store.add_persona("ana", parts.render([]), source="edit", why="w", parts=parts.as_dict())
    store.rollback("ana", 2)
    store.record_answer("ana", Usage(calls=1, input_tokens=10, usd=0.1))
    store.correct("ana", line=1, text="Likes quiet films.", why="she said so")
    store.pin("ana", 5)
    Keys(home()).create(user_id="ana", rights=["read"])
    Keys(home()).create(user_id="bo", rights=["read"])
    return store


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def to_file(data: Any) -> Path:
        path = tmp_path / "export.json"
        path.write_text(json.dumps(data))
        return path

    return to_file


Write = Callable[[Any], Path]


def test_it_holds_what_every_place_holds_of_the_person_and_nothing_of_others(lived: UserStore) -> None:
    data = export_user(lived, "ana")
    assert data["schema"] == "personaagent.export/1"
    assert data["user"]["pinned"] == 5
    assert [item["id"] for item in data["interactions"]] == [f"i{n}" for n in range(6)]
    assert data["profile"]["parts"]["facts"]["interactions"] == 6
    sources = ["initial", "alignment", "edit", "rollback", "correction"]
    assert [row["source"] for row in data["personas"]] == sources
    assert data["personas"][4]["parts"]["lines"][0]["corrected"] == data["personas"][4]["created_at"][:10]
    assert [entry["action"] for entry in data["audit"]] == ["correct persona"]
    assert data["personas"][2]["parts"]["lines"][0]["interaction_ids"] == ["i2"]
    [run] = data["alignments"]
    assert run["steps"][0]["number"] == 1
    assert run["record"]["steps"]
    assert data["costs"][0]["answers"] == 1
    assert [key["user_id"] for key in data["keys"]] == ["ana"]
    assert "sha256" not in str(data["keys"])
    assert any("a film 3" in str(call["inputs"]) for call in data["traces"]["calls"])
    assert any("This user likes action." in str(value) for value in data["traces"]["objects"].values())
    assert "BOSECRET" not in json.dumps(data)


def test_without_traces_it_says_so(lived: UserStore) -> None:
    data = export_user(lived, "ana", traces=False)
    assert data["traces"] is None
    assert data["not_included"][-1] == "local traces: not asked for"


def test_it_changes_nothing_in_the_data_directory(store: UserStore) -> None:
    before = sorted(path.name for path in home().iterdir()) if home().exists() else []
    assert export_user(store, "ana")["traces"] == {"calls": [], "objects": {}}
    assert (sorted(path.name for path in home().iterdir()) if home().exists() else []) == before


def test_an_unknown_user_has_no_export(store: UserStore) -> None:
    with pytest.raises(UnknownUserError, match="did you mean 'bo'"):
        export_user(store, "bob")


def test_an_import_brings_back_all_that_it_can_carry(lived: UserStore, location: str, write: Write) -> None:
    exported = export_user(lived, "ana")
    with UserStore(location) as other:
        report = import_users(other, write(exported))
        assert (report.users, report.interactions, report.new) == (1, 6, 6)
        assert report.warnings == (
            "left out, because an import cannot carry it: alignments, costs, audit, keys, traces",
        )
        again = export_user(other, "ana")
        assert {name: again[name] for name in CARRIED} == {name: exported[name] for name in CARRIED}
        assert other.persona("ana") == lived.persona("ana")
        report = import_users(other, write(exported))
        assert (report.new, report.warnings[-1]) == (
            0,
            "left out, because the user has one in this store: the persona",
        )
        other.unpin("ana")
        version = other.add_persona("ana", "Be brief.", source="edit", why="w")
        assert (version.version, version.text.splitlines()[-1]) == (6, "- Likes quiet films.")


def test_a_stale_user_stays_stale(store: UserStore, tmp_path: Path, write: Write) -> None:
    store.add_persona("ana", "Be brief.", source="edit", why="w")
    with UserStore(tmp_path / "other.db") as other:
        import_users(other, write(export_user(store, "ana")))
        assert other.user("ana") == store.user("ana")
        assert other.user("ana").stale


def test_a_forgotten_user_stays_forgotten(store: UserStore, write: Write) -> None:
    path = write(export_user(store, "ana"))
    store.forget("ana")
    report = import_users(store, path)
    assert (report.new, report.forgotten) == (0, 1)
    assert [user.user_id for user in store.users()] == ["bo"]


def test_a_forgotten_interaction_stays_so_and_no_persona_that_may_quote_it_comes(
    store: UserStore, write: Write
) -> None:
    store.add_persona("ana", "Ana saw a film 3.", source="edit", why="w")
    path = write(export_user(store, "ana"))
    store.forget_interactions("ana", ["i3"])
    store.forget("ana")
    store.readmit("ana")
    report = import_users(store, path)
    assert report.new == 5
    assert report.warnings == ("left out, because interactions that it may quote are forgotten: the persona",)
    assert "a film 3" not in json.dumps(export_user(store, "ana", traces=False))


def test_the_task_is_the_exports_and_another_one_is_refused(
    store: UserStore, tmp_path: Path, write: Write
) -> None:
    path = write(export_user(store, "ana"))
    with UserStore(tmp_path / "other.db") as other:
        with pytest.raises(DataError, match="export of a user of task 'LaMP-2M'; leave out `--task`"):
            import_users(other, path, task="free-text")
        assert list(other.users()) == []
        import_users(other, path, task="LaMP-2M")
        assert other.user("ana").task == "LaMP-2M"


def damage(data: Any, *keys: Any, value: Any) -> Any:
    copied = json.loads(json.dumps(data))
    place = copied
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("schema",), "personaagent.export/9", "has schema 'personaagent.export/9'"),
        (("user", "user_id"), 7, "field `user.user_id` must be text, not a number"),
        (("interactions", 2, "query"), None, "field `interactions[2].query` must be text"),
        (("interactions", 2, "timestamp"), "now", "field `interactions[2].timestamp`: 'now' is not a time"),
        (("interactions", 2, "response"), "tea", "field `interactions[2].response` does not fit task"),
        (("personas", 1, "version"), 1, "field `personas[1].version` is not above"),
        (("personas", 1, "parent"), 3, "field `personas[1].parent` is no version before it"),
        (("personas", 0, "source"), "x", "field `personas[0].source` must be one of"),
        (("personas", 0, "created_at"), "", "field `personas[0].created_at` is empty"),
        (
            ("personas", 2, "parts", "lines"),
            1,
            "field `personas[2].parts`: the parts of a persona are damaged",
        ),
        (("profile", "parts", "facts"), {}, "field `profile.parts` has 1 error"),
        (("user", "pinned"), 9, "field `user.pinned` is no version in it"),
        (("user", "stale_since"), "soon", "field `user.stale_since`: 'soon' is not a time"),
    ],
)
def test_a_damaged_export_is_one_error_and_nothing_is_stored(
    keys: Any, value: Any, reason: str, tmp_path: Path, write: Write
) -> None:
    with UserStore(tmp_path / "from.db") as store, UserStore(tmp_path / "other.db") as other:
        store.append("ana", [said(number) for number in range(3)], task="LaMP-2M")
        open_session(store, "ana", prose=False, wikipedia=False)
        for text in ("Be brief.", "Be exact."):
            parts = {**Persona().as_dict(), "role": text}
            store.add_persona("ana", text, source="edit", why="w", parts=parts)
        path = write(damage(export_user(store, "ana"), *keys, value=value))
        with pytest.raises(DataError) as error:
            import_users(other, path)
        assert reason in str(error.value)
        assert "\n" not in str(error.value)
        assert list(other.users()) == []


def test_half_a_file_is_one_error(store: UserStore, tmp_path: Path) -> None:
    path = tmp_path / "half.json"
    path.write_text(json.dumps(export_user(store, "ana"))[:-40])
    with pytest.raises(DataError, match="export the user again, or restore a copy"):
        import_users(store, path)


def test_the_command_writes_a_private_file_that_import_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import personaagent
    from program.cli.options import guarded

    def run(*words: object) -> tuple[int, str, str]:
        app = personaagent.command_line()
        code = guarded(lambda: app([str(word) for word in words]))
        return code, *capsys.readouterr()

    with UserStore(home() / "users.db") as store:
        store.append("ana", [said(number) for number in range(3)], task="LaMP-2M")
        expected = export_user(store, "ana")
    assert json.loads(run("users", "export", "ana")[1]) == expected
    path = tmp_path / "ana.json"
    assert run("users", "export", "ana", "--out", path) == (
        0,
        "",
        f"3 interactions and 0 persona versions written to {path}\n",
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text(encoding="utf-8")) == expected
    code, out, _ = run("users", "import", path, "--store", tmp_path / "other.db")
    assert (code, out) == (0, "1 user, 3 interactions, 3 new, 0 bad records skipped\n")
    code, _, error = run("users", "export", "ana", "--out", tmp_path / "no" / "x.json")
    assert (code, error.count("\n")) == (1, 1)
