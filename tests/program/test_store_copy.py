"""Copying a store: everything arrives, or nothing does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, Table

import personaagent
from program import copy_store
from program.cli.options import guarded
from program.errors import ConfigError, StoreError
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.store import UserStore, copying
from program.store.schema import metadata

ROOT = Path(__file__).parents[2]
NewDatabase = Callable[[], str]
HOSTILE = (
    "'; DROP TABLE pa_users; --",
    "\\N\t\\.\n%s %(x)s :x {y}",
    "\x01\x1b[31m\x7f\x85\u2028",
    "\u202eevil \U0001f4a9 \u0301e\u0301 \ufffe\uffff",
    "x" * 200_000,
    "",
)


@pytest.fixture(params=["sqlite to postgresql", "postgresql to sqlite", "postgresql to postgresql"])
def ends(request: pytest.FixtureRequest, tmp_path: Path, new_database: NewDatabase) -> tuple[str, str]:
    """The locations of a source and of a target."""
    kinds = request.param.split(" to ")
    first, second = (
        new_database() if kind == "postgresql" else str(tmp_path / f"{n}.db") for n, kind in enumerate(kinds)
    )
    return first, second


def fill(store: UserStore) -> None:
    for number, user in enumerate(("Ana", "ana", "änä", "z 'q\" \\", "\U0001f4a9")):
        history = [
            Interaction(
                id=f"i{n} '%s \\",
                user_id=user,
                query=text,
                response=text[::-1],
                timestamp=datetime(1 + 1000 * n, 1, 1, microsecond=n, tzinfo=timezone.utc) if n % 2 else None,
                metadata={text[:9]: text},
            )
            for n, text in enumerate(HOSTILE[: number + 2])
        ]
        store.append(user, history, task="free-text" if number % 2 else "LaMP-2M")
        for text in HOSTILE[:number]:
            store.add_persona(user, text, source="edit", why=text[:50], parts={"lines": [], "x": text})
        store.save_profile(user, Profile(facts=Facts(interactions=number), prose="\u0000\ud800 in JSON"))
        done = store.start_alignment(user, {"a": 1e300, "b": [1, None, True], "n": 2**70})
        store.save_step(user, done, 1, {"x": HOSTILE[0]})
        store.finish_alignment(user, done, {"x": 0.1}, ("new", "w"), trials=[(0.1, 3)], cohort="c")
        store.fail_alignment(user, store.start_alignment(user, {}), "it\x00failed")
        store.start_alignment(user, {})
    store.add_user("gone", task="free-text")
    store.forget("gone")


def contents(store: UserStore) -> dict[str, list[str]]:
    """Return every row of every table, in one order for both databases."""
    with store._database.read() as connection:
        return {
            table.name: sorted(repr(tuple(row)) for row in connection.execute(table.select()))
            for table in metadata.sorted_tables
        }


def test_copy_has_every_row_of_every_table(ends: tuple[str, str]) -> None:
    with UserStore(ends[0]) as source, UserStore(ends[1]) as target:
        fill(source)
        before = contents(source)
        tables = copy_store(source, target)
        assert all(before.values()), "the source has rows in every table"
        assert contents(target) == before
        assert contents(source) == before
        assert {f"pa_{table.name}": table.rows for table in tables} == {k: len(v) for k, v in before.items()}


def test_copied_store_goes_on_like_the_first_one(ends: tuple[str, str]) -> None:
    with UserStore(ends[0]) as source, UserStore(ends[1]) as target:
        fill(source)
        copy_store(source, target)
        for store in (source, target):
            store.append("ana", [Interaction(id="new", user_id="ana", query="q", response="r")])
            store.rollback("ana", 1)
        # Each one noted when the new interaction arrived.
        users = [replace(store.user("ana"), stale_since=None) for store in (source, target)]
        assert users[0] == users[1]
        assert target.interactions("ana") == source.interactions("ana")
        assert [v.text for v in target.persona_history("ana")] == [
            v.text for v in source.persona_history("ana")
        ]


def test_there_and_back_gives_the_same_hashes(ends: tuple[str, str], tmp_path: Path) -> None:
    with UserStore(ends[0]) as source, UserStore(ends[1]) as target, UserStore(tmp_path / "back.db") as back:
        fill(source)
        there = copy_store(source, target)
        assert copy_store(target, back) == there


def test_equal_rows_in_another_order_have_one_hash_and_a_changed_letter_another(
    new_location: NewDatabase,
) -> None:
    hashes = []
    for users, response in ((("a", "b"), "r"), (("b", "a"), "r"), (("a", "b"), "s")):
        with UserStore(new_location()) as source, UserStore(new_location()) as target:
            for user in users:
                one = Interaction(id="1", user_id=user, query="q", response=response)
                source.append(user, [one], task="free-text")
            hashes.append({table.name: table.sha256 for table in copy_store(source, target)}["interactions"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_target_with_a_user_is_refused_and_unchanged(ends: tuple[str, str]) -> None:
    with UserStore(ends[0]) as source, UserStore(ends[1]) as target:
        fill(source)
        target.add_user("bo", task="free-text")
        with pytest.raises(
            StoreError, match=r"already has 1 user; nothing was copied.*another file or database"
        ):
            copy_store(source, target)
        assert [user.user_id for user in target.users()] == ["bo"]


def test_store_is_not_copied_onto_itself(location: str) -> None:
    with UserStore(location) as store, UserStore(location) as same:
        with pytest.raises(ConfigError, match="both the source and the target"):
            copy_store(store, same)


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        (
            "UPDATE pa_personas SET text = 'a' || char(0) WHERE user_id = 'bo' AND version = 1",
            r"`text` of the persona with user_id 'bo', version 1: it holds a NUL character at character 1",
        ),
        (
            "UPDATE pa_interactions SET query = char(0) WHERE id = 'i7'",
            r"`query` of the interaction with user_id 'bo', id 'i7': it holds a NUL character",
        ),
        (
            "UPDATE pa_personas SET parts = '{\"x\": [1, NaN]}'",
            r"`parts` of the persona with user_id 'bo', version 1: it holds a number that is not finite",
        ),
        (
            "UPDATE pa_personas SET source = 'a source that is too long'",
            r"`source` of the persona with .*: it has 25 characters, more than 16",
        ),
        (
            "UPDATE pa_users SET settled = 3000000000",
            r"`settled` of the user with user_id 'bo': it is the number",
        ),
    ],
)
def test_value_that_postgresql_cannot_hold_is_named_before_anything_is_written(
    tmp_path: Path, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch, statement: str, line: str
) -> None:
    with UserStore(tmp_path / "s.db") as source, UserStore(new_database()) as target:
        new = [Interaction(id=f"i{n}", user_id="bo", query="q", response="r") for n in range(9)]
        source.append("bo", new, task="free-text")
        source.add_persona("bo", "Be brief.", source="edit", why="w")
        with source._database.write() as connection:
            connection.exec_driver_sql(statement)
        monkeypatch.setattr(target._database, "write", None)
        with pytest.raises(StoreError, match=line + ".*nothing was copied"):
            copy_store(source, target)
        assert list(target.users()) == []


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda rows: rows[:-1], "the copy of `interactions` has 1 row, not 2; nothing was stored"),
        (
            lambda rows: [SimpleNamespace(_mapping={**row._mapping, "response": "other"}) for row in rows],
            "the copy of `interactions` has other contents; nothing was stored",
        ),
    ],
)
def test_copy_that_differs_is_not_stored(
    ends: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[list[Any]], list[Any]],
    line: str,
) -> None:
    real, reads = copying._chunks, count()

    def damaged(connection: Connection, table: Table) -> Iterator[list[Any]]:
        # The first read of the table is the check of the source, the second one is copied.
        is_copied = table.name == "pa_interactions" and next(reads) == 1
        for chunk in real(connection, table):
            yield damage(chunk) if is_copied else chunk

    monkeypatch.setattr(copying, "_chunks", damaged)
    with UserStore(ends[0]) as source, UserStore(ends[1]) as target:
        new = [Interaction(id=n, user_id="bo", query="q", response="r") for n in "12"]
        source.append("bo", new, task="free-text")
        with pytest.raises(StoreError, match=line):
            copy_store(source, target)
        assert list(target.users()) == []


_COPY = """
import os, signal, sys
from program.store import UserStore
from program.store.copying import copy_store

at = int(sys.argv[3])
def kill(done, total):
    if done >= at:
        os.kill(os.getpid(), signal.SIGKILL)
with UserStore(sys.argv[1]) as source, UserStore(sys.argv[2]) as target:
    copy_store(source, target, progress=kill)
"""


def test_killed_copy_leaves_an_empty_target_and_can_be_repeated(ends: tuple[str, str]) -> None:
    with UserStore(ends[0]) as source:
        fill(source)
        rows = sum(len(table) for table in contents(source).values())
        for at in (1, rows + 1, 2 * rows - 1, 2 * rows + 1, 3 * rows):
            done = subprocess.run([sys.executable, "-c", _COPY, *ends, str(at)], cwd=ROOT, check=False)
            assert done.returncode == -signal.SIGKILL
            with UserStore(ends[1]) as target:
                assert not any(contents(target).values()), f"killed after {at} of {3 * rows} rows"
        with UserStore(ends[1]) as target:
            copy_store(source, target)
            assert contents(target) == contents(source)


def test_memory_is_a_fraction_of_the_store(ends: tuple[str, str]) -> None:
    with UserStore(ends[0]) as source, UserStore(ends[1]) as target:
        new = [Interaction(id=str(n), user_id="bo", query="q" * 2000, response="r") for n in range(8000)]
        source.append("bo", new, task="free-text")
        del new
        tracemalloc.start()
        copy_store(source, target)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 12 * 2**20, "the texts alone are 16 MB"


class TestCommand:
    def run(self, *words: str) -> int:
        app = personaagent.command_line()
        return guarded(lambda: app(["store", "copy", *words]))

    def test_prints_one_row_for_each_table(
        self, ends: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with UserStore(ends[0]) as source:
            fill(source)
        assert self.run(*ends) == 0
        lines = capsys.readouterr().out.splitlines()
        for table in metadata.sorted_tables:
            assert any(
                line.split()[0] == table.name.removeprefix("pa_") and "equal" in line
                for line in lines
                if line
            )
        assert self.run(*ends) == 1
        error = capsys.readouterr().err
        assert "already has 5 users" in error
        assert error.count("\n") == 1

    def test_prints_json(self, ends: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        with UserStore(ends[0]) as source:
            source.add_user("bo", task="free-text")
        assert self.run(*ends, "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        assert {row["name"]: row["rows"] for row in rows}["users"] == 1
        assert all(len(row["sha256"]) == 64 for row in rows)

    def test_missing_source_is_refused_and_no_file_is_made(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(str(tmp_path / "typo.db"), str(tmp_path / "new.db")) == 1
        assert "typo.db` does not exist" in capsys.readouterr().err
        assert list(tmp_path.glob("*.db")) == []

    def test_interrupted_copy_says_that_it_can_be_repeated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with UserStore(tmp_path / "s.db") as source:
            fill(source)
        monkeypatch.setattr(copying, "_compare", interrupted)
        assert self.run(str(tmp_path / "s.db"), str(tmp_path / "t.db")) == 130
        assert "Nothing is copied halfway: run the command again" in capsys.readouterr().err
        with UserStore(tmp_path / "t.db") as target:
            assert list(target.users()) == []
