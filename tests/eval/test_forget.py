"""Forgetting a user in run folders: no byte is left, a kill is made good, a resumed run leaves none."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from eval.contracts import EvalUser
from eval.forget import erase, owns
from eval.manifest import make_manifest
from eval.methods.registry import make_methods
from eval.records import read_forgotten, read_run
from eval.run_folder import lock_folder
from eval.runner import Outcome, run_methods
from program.errors import ConfigError, DataError, ForgottenUserError, StoreError, UnknownUserError
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.store import UserStore
from program.task import Task, get_task

CANARY = "Quetzalcoatlus"
"""The user's id, and a word in all of the user's texts."""

METHODS = ["rag,grounded:persona_of=other"]
LM = scripted_lm(lambda system, asked: reply(system, asked))

Run = Callable[[Path], Outcome]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three users, with a report."""
    path = tmp_path_factory.mktemp("made") / "run"
    assert go(path, [user("anna"), user(CANARY), user("bert")]).complete
    for name in ("report.html", "report.md", "tables/cases.csv", "files.txt"):
        (path / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "report" / name).write_text("tables/cases.csv\n" if name == "files.txt" else CANARY)
    return path


def user(name: str) -> EvalUser:
    from tests.eval.conftest import make_user

    made: EvalUser = make_user.__wrapped__()(name, history=4, queries=2)  # type: ignore[attr-defined]
    return made


def reply(system: str, asked: str) -> Any:
    if "critical evaluator" in system or "refine the system prompt" in system:
        return f"This user wrote: {asked[-300:]}"
    if "You maintain the list" in system:
        return {"edits": []}
    if "`action`" in asked:
        return {"thought": asked[-100:], "action": {"tool": "search_memory", "query": "rainy"}}
    return {"answer": "comedy"} if "`answer`" in asked else "a text"


def go(path: Path, users: list[EvalUser]) -> Outcome:
    task: Task = get_task("LaMP-2M")
    methods = make_methods(METHODS, task)
    manifest = make_manifest(task=task, data={}, methods=methods, lm=LM)
    with dspy.context(lm=LM):
        return run_methods(users, methods, task=task, manifest=manifest, out=path, lm=LM)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    assert {"answers.jsonl", "prepare.jsonl", "queries.jsonl"} <= {path.name for path in holding(tmp_path)}
    return tmp_path / "run"


def holding(folder: Path) -> list[Path]:
    """Return the files that hold the canary, in any case or in UTF-16."""
    forms = [CANARY.encode(), CANARY.encode("utf-16-le"), CANARY.encode("utf-16-be")]
    found = []
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if CANARY.lower().encode() in data.lower() or any(form in data for form in forms):
            found.append(path)
    return found


def test_no_byte_of_the_user_is_left_and_the_others_stay(run: Path) -> None:
    before = read_run(run)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.glob("*.jsonl")}
    with UserStore(run.parent / "users.db") as store:
        for name in (CANARY, "bert"):
            item = Interaction(id="1", user_id=name, query="q", response="action")
            store.append(name, [item], task="LaMP-2M")
        receipt = store.forget(CANARY, also=[run])
        assert store.user("bert").interactions == 1
    # 2 queries, and 2 answers and 1 preparation by each method; of the control also those of the two others.
    assert receipt.erased["run records"] == 2 + 2 * 3 + 2 * 3
    assert "14 run records" in str(receipt)
    assert holding(run.parent) == []
    after = read_run(run)
    assert {query.user_id for query in after.queries} == {"anna", "bert"}
    assert {name: row for name, row in before.answers.items() if name[:2] == ("rag", "bert")} == {
        name: row for name, row in after.answers.items() if name[:2] == ("rag", "bert")
    }
    assert after.answers.keys().isdisjoint({("grounded:persona_of=other", "anna", "anna-q0")})
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.glob("*.jsonl")} == modes


def test_a_resumed_run_leaves_the_user_out(run: Path) -> None:
    erase(run, CANARY, whole=True)
    outcome = go(run, [user("anna"), user(CANARY), user("bert")])
    assert outcome.complete
    assert outcome.expected == 4
    assert holding(run) == []


def test_forgotten_interactions_take_all_records_of_the_user(run: Path) -> None:
    with UserStore(run.parent / "users.db") as store:
        items = [Interaction(id=f"{n}", user_id=CANARY, query="q", response="action") for n in range(2)]
        store.append(CANARY, items, task="LaMP-2M")
        assert store.forget_interactions(CANARY, ["0"], also=[str(run)]).erased["run records"] == 14
        assert store.user(CANARY).interactions == 1
    assert holding(run) == []


def test_a_user_known_from_a_run_alone_can_be_forgotten_and_again(run: Path) -> None:
    with UserStore(run.parent / "users.db") as store:
        with pytest.raises(UnknownUserError):
            store.forget(CANARY)
        assert store.forget(CANARY, also=[run, run]).erased["run records"] == 14
        assert store.forget(CANARY, also=[run]).erased["run records"] == 0
        with pytest.raises(ForgottenUserError):
            store.add_user(CANARY, task="LaMP-2M")


def test_a_user_who_is_not_in_the_run_changes_nothing(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert erase(run, "nobody", whole=True) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["delete_report", "shutil.copymode"])
def test_a_kill_at_any_step_is_made_good_by_the_same_command(run: Path, place: str) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from eval import forget
from program import UserStore

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

forget.{place} = die
with UserStore(sys.argv[1] + "/users.db") as store:
    store.forget({CANARY!r}, also=[sys.argv[1] + "/run"])
"""
    killed = subprocess.run([sys.executable, "-c", script, str(run.parent)], env={**os.environ}, check=False)
    assert killed.returncode == -signal.SIGKILL
    with UserStore(run.parent / "users.db") as store:
        store.forget(CANARY, also=[run])
    assert holding(run.parent) == []
    assert len(read_forgotten(run)) == 1
    assert {query.user_id for query in read_run(run).queries} == {"anna", "bert"}


def test_a_half_written_line_goes_too(run: Path) -> None:
    with (run / "answers.jsonl").open("a") as file:
        file.write(f'{{"user_id": "{CANARY}", "text": "{CANARY}')
    erase(run, CANARY, whole=True)
    assert holding(run) == []


def test_a_folder_of_runs_and_an_unfinished_run_count(run: Path) -> None:
    inner = run.parent / "sweeps" / "k"
    shutil.copytree(run, inner / "value-1")
    shutil.copytree(run, inner / "value-2")
    (inner / "value-2" / "manifest.json").unlink()
    assert owns(run.parent / "sweeps")
    erase(run.parent / "sweeps", CANARY, whole=True)
    assert holding(run.parent / "sweeps") == []


def test_another_folder_is_refused_before_anything_is_forgotten(run: Path, tmp_path: Path) -> None:
    with UserStore(run.parent / "users.db") as store:
        store.add_user(CANARY, task="LaMP-2M")
        (tmp_path / "other").mkdir()
        for path, reason in (
            (tmp_path / "other", "is not a folder of a run"),
            (tmp_path / "no", "does not exist"),
        ):
            with pytest.raises(ConfigError, match=f"{reason}; nothing was forgotten"):
                store.forget(CANARY, also=[run, path])
        assert store.user(CANARY).interactions == 0
    assert holding(run)


def test_a_run_in_progress_or_a_damaged_one_is_named_and_the_rest_is_forgotten(run: Path) -> None:
    with UserStore(run.parent / "users.db") as store:
        store.add_user(CANARY, task="LaMP-2M")
        with lock_folder(run), pytest.raises(StoreError, match="another process is writing"):
            store.forget(CANARY, also=[run])
        with pytest.raises(UnknownUserError):
            store.user(CANARY)
        with (run / "answers.jsonl").open("a") as file:
            file.write("{\n")
        with pytest.raises(DataError, match=r"answers.jsonl`, line 13"):
            erase(run, CANARY, whole=True)
