"""Databases that were damaged: reading gives data or one of our errors, never a raw one."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from program.errors import StoreError
from program.store import UserStore
from program.tracing.server.trace_store import TraceStore
from program.tracing.view import reader

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1"


def read_store(path: Path) -> None:
    with UserStore(path) as store:
        for user in store.users():
            store.interactions(user.user_id)
            store.profile(user.user_id)
            store.persona_history(user.user_id)
            for row in store.alignments(user.user_id):
                store.steps(user.user_id, row.id)


def read_traces(path: Path) -> None:
    store = TraceStore(path)
    try:
        reader.list_traces(store, user_id=None, run_id=None, name=None, failed=False, limit=30)
    finally:
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLD / "users.db", tmp_path / "users.db"))


@pytest.mark.parametrize(("name", "read"), [("users.db", read_store), ("traces.db", read_traces)])
def test_damage_anywhere_is_data_or_our_error(
    tmp_path: Path, name: str, read: Callable[[Path], None]
) -> None:
    whole = (OLD / name).read_bytes()
    rng = random.Random(3)
    for number in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        cut = rng.randrange(len(damaged)) if rng.random() < 0.3 else len(damaged)
        path = tmp_path / f"{number}.db"
        path.write_bytes(damaged[:cut])
        with contextlib.suppress(StoreError):
            read(path)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE pa_interactions SET metadata = '{'",
            "a stored JSON text cannot be read.*: restore a backup, or save what can be",
        ),
        ("UPDATE pa_interactions SET metadata = '[1]'", "a stored JSON text cannot be read"),
        ("UPDATE pa_interactions SET timestamp = '2026-13-01'", "a stored time cannot be read"),
        ("UPDATE pa_interactions SET query = CAST(x'ff' AS TEXT)", "decode"),
        ("UPDATE pa_profiles SET profile = '{}'", "the profile of user .* cannot be read"),
    ],
)
def test_damaged_value_is_one_line(store: Path, statement: str, problem: str) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        assert connection.execute(statement).rowcount > 0
    with pytest.raises(StoreError, match=problem) as caught:
        read_store(store)
    assert "\n" not in str(caught.value)


def test_damaged_trace_row_is_shown_as_damaged(tmp_path: Path) -> None:
    path = Path(shutil.copy(OLD / "traces.db", tmp_path / "traces.db"))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE calls SET summary = '{'")
    store = TraceStore(path)
    assert {line.status for line in reader.list_traces(store)} == {"damaged"}
    store.close()
