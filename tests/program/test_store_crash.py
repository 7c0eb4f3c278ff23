"""A process killed between two statements leaves every acknowledged write and no partial one.

This file is also the killed program: ``python test_store_crash.py FOLDER NAME`` repeats a scenario on
a fresh store and kills run k before its k-th statement.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.store import UserStore, erasers

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "fixtures" / "v0_1" / "users.db"

Action = Callable[[UserStore], object]


def _interactions(user_id: str, *names: str) -> list[Interaction]:
    return [Interaction(id=name, user_id=user_id, query=f"q{name}", response=f"r{name}") for name in names]


def _run(store: UserStore) -> str:
    return store.alignments("ann")[-1].id


SCENARIOS: dict[str, list[Action]] = {
    "create": [lambda store: store.add_user("ann", task="free-text")],
    "use": [
        lambda store: store.append("ann", _interactions("ann", "1", "2", "3"), task="free-text"),
        lambda store: store.append("bob", _interactions("bob", "1"), task="free-text"),
        lambda store: store.add_persona("ann", "one", source="initial", why="w"),
        lambda store: store.save_profile("ann", Profile(facts=Facts(interactions=3))),
        lambda store: store.start_alignment("ann", {"steps": 1}),
        lambda store: store.save_step("ann", _run(store), 1, {"n": 1}),
        lambda store: store.append("ann", _interactions("ann", "4", "5")),
        lambda store: store.finish_alignment(
            "ann",
            _run(store),
            {"n": 1},
            ("two", "better"),
            parts={"n": 2},
            trials=[(3, 1), (2, 2)],
            cohort="tags",
        ),
        lambda store: store.rollback("ann", 1),
        lambda store: store.forget("bob"),
    ],
    "migrate": [lambda store: store.rollback("ana", 2)],
}


def snapshot(store: UserStore) -> list[object]:
    """Return the contents of the store without times and random ids."""
    return [
        (
            replace(user, stale_since=None),
            store.interactions(user.user_id),
            store.profile(user.user_id),
            [
                (v.version, v.parent, v.text, v.source, v.why, v.parts)
                for v in store.persona_history(user.user_id)
            ],
            [
                (row.status == "done", row.ended_at is None, row.record, store.steps(user.user_id, row.id))
                for row in store.alignments(user.user_id)
            ],
            store.trials("tags", excluding=user.user_id),
        )
        for user in store.users()
    ]


@pytest.fixture(scope="module", params=SCENARIOS)
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run(
        [sys.executable, __file__, str(folder), request.param],
        check=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PERSONAAGENT_HOME": str(folder / "home")},
    )
    return request.param, folder


def test_killed_process_leaves_every_acknowledged_write_and_no_partial_one(
    killed: tuple[str, Path], tmp_path: Path
) -> None:
    name, folder = killed
    shutil.copy(folder / "start.db", tmp_path / "whole.db")
    with UserStore(tmp_path / "whole.db") as whole:
        after = [snapshot(whole)]
        for action in SCENARIOS[name]:
            action(whole)
            after.append(snapshot(whole))
    runs = json.loads((folder / "runs.json").read_text())
    assert runs[-1] == len(SCENARIOS[name]), "the last run was not killed"
    assert len(runs) > 2 * len(SCENARIOS[name]), "some runs are killed within an action"
    for k, acknowledged in enumerate(runs):
        with UserStore(folder / f"{k}.db") as store:
            state = snapshot(store)
            assert state in after[acknowledged : acknowledged + 2], f"killed before statement {k}"
            for action in SCENARIOS[name][after.index(state) :]:
                action(store)
            assert snapshot(store) == after[-1], f"cannot continue after a kill before statement {k}"
        with closing(sqlite3.connect(folder / f"{k}.db")) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert raw.execute("PRAGMA foreign_key_check").fetchall() == []


def test_run_of_a_dead_process_is_interrupted(location: str) -> None:
    code = (
        "import os, signal, sys; from program.store import UserStore; "
        "UserStore(sys.argv[1]).start_alignment('ann', {}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with UserStore(location) as store:
        store.add_user("ann", task="free-text")
        subprocess.run([sys.executable, "-c", code, location], cwd=ROOT, check=False)
        [row] = store.alignments("ann")
        assert (row.status, row.ended_at) == ("interrupted", None)
        store.start_alignment("ann", {})
        first, second = store.alignments("ann")
        assert (first.status, second.status) == ("interrupted", "running")
        assert first.ended_at is not None


def _die_before(k: int, path: Path, actions: list[Action], acknowledge: int) -> None:
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        if count == k:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    event.listen(Engine, "before_cursor_execute", step)
    event.listen(Engine, "commit", step)
    store = UserStore(path)
    for action in actions:
        action(store)
        os.write(acknowledge, b".")


def _main(folder: Path, name: str) -> None:
    start = folder / "start.db"
    if name == "create":
        start.touch()
    elif name == "migrate":
        shutil.copy(OLD, start)
    UserStore(start if name == "use" else folder / "warm.db").close()
    erasers._erasers()  # loaded once, not in every child
    runs: list[int] = []
    status = -1
    while status != 0:
        path = folder / f"{len(runs)}.db"
        shutil.copy(start, path)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            _die_before(len(runs), path, SCENARIOS[name], write_end)
            os._exit(0)
        os.close(write_end)
        status = os.waitpid(child, 0)[1]
        runs.append(len(os.read(read_end, 1000)))
        os.close(read_end)
    (folder / "runs.json").write_text(json.dumps(runs))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
