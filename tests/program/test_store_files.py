"""What only a store in an SQLite file does: bytes on disk, locks of other programs, a full disk."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import pytest
from sqlalchemy import event

from program.errors import StoreUnavailableError, UnknownUserError
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.store import UserStore


def interaction(name: str, user_id: str = "ann", *, response: str = "comedy") -> Interaction:
    return Interaction(id=name, user_id=user_id, query=f"film {name}", response=response)


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "store.db") as store:
        store.add_user("ann", task="free-text")
        yield store


def test_forget_leaves_no_byte_of_the_user_and_keeps_others(ann: UserStore, tmp_path: Path) -> None:
    marker = "unforgettable-marker"
    for user_id in ("ann", "bob"):
        new = [interaction(str(n), user_id, response=marker + user_id) for n in range(50)]
        ann.append(user_id, new, task="free-text")
        ann.add_persona(user_id, marker + user_id, source="initial", why=marker + user_id)
        run = ann.start_alignment(user_id, {"x": marker + user_id})
        ann.save_step(user_id, run, 1, {"x": marker + user_id})
        ann.save_profile(user_id, Profile(facts=Facts(interactions=1), prose=marker + user_id))
    ann.forget("ann")
    with pytest.raises(UnknownUserError):
        ann.user("ann")
    assert len(ann.interactions("bob")) == 50
    assert len(ann.steps("bob", ann.alignments("bob")[0].id)) == 1
    on_disk = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert (marker + "bob").encode() in on_disk
    assert (marker + "ann").encode() not in on_disk


def test_repr_of_a_store_names_its_file(ann: UserStore, tmp_path: Path) -> None:
    assert repr(ann) == f"UserStore('{tmp_path}/store.db')"


def test_locked_database_raises_after_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    UserStore(path).close()
    monkeypatch.setattr("program.store.database.BUSY_SECONDS", 0.01)
    with UserStore(path) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            StoreUnavailableError, match="database is locked; another process has been writing"
        ):
            store.add_user("ann", task="free-text")
        other.rollback()
        store.add_user("ann", task="free-text")


def test_full_disk_stores_nothing_and_the_error_quotes_no_text(ann: UserStore) -> None:
    engine = ann._database.engine
    engine.dispose()
    pages = ann._database.pragma("page_count") + 2
    engine.dispose()

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(engine, "connect", limit)
    with pytest.raises(StoreUnavailableError, match=r"is full; free some space") as caught:
        ann.append("ann", [interaction(str(n), response="secret" * 1000) for n in range(20)])
    assert "secret" not in str(caught.value)
    assert ann.interactions("ann") == []
    assert ann.append("ann", [interaction("1")]) == 1


def test_another_process_opens_a_pickled_store_again(ann: UserStore) -> None:
    for dump in (pickle.dumps, cloudpickle.dumps):
        with pickle.loads(dump(ann)) as other:
            other.append("ann", [interaction(dump.__module__)])
    assert len(ann.interactions("ann")) == 2
