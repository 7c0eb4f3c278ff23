"""One store in many threads and processes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from program.errors import StoreError
from program.memory.interaction import Interaction
from program.store import UserStore

ROOT = Path(__file__).parents[2]
THREADS = 16


def interaction(user_id: str, name: str) -> Interaction:
    return Interaction(id=name, user_id=user_id, query=f"asked by {user_id}", response=f"said by {user_id}")


def test_64_users_on_16_threads_see_only_themselves(location: str) -> None:
    def use_store(number: int) -> str:
        me = f"user-{number:02}"
        store.append(me, [interaction(me, str(n)) for n in range(5)], task="free-text")
        store.add_persona(me, f"persona of {me}", source="initial", why=me)
        run = store.start_alignment(me, {"user": me})
        store.save_step(me, run, 1, {"user": me})
        store.append(me, [interaction(me, "late")])
        store.finish_alignment(me, run, {"user": me}, (f"second persona of {me}", me))
        records = (
            store.interactions(me),
            store.persona_history(me),
            store.alignments(me),
            store.steps(me, run),
        )
        others = repr(records).replace(me, "")
        assert "user-" not in others
        assert len(records[0]) == 6
        return me

    with UserStore(location) as store:
        with ThreadPoolExecutor(THREADS) as pool:
            user_ids = list(pool.map(use_store, range(64)))
        assert [(u.user_id, u.interactions, u.persona_version, u.stale) for u in store.users()] == [
            (me, 6, 2, True) for me in user_ids
        ]


def test_16_threads_append_to_one_user_without_losing_any(location: str) -> None:
    with UserStore(location) as store:
        with ThreadPoolExecutor(THREADS) as pool:
            new = pool.map(
                lambda t: store.append(
                    "ann", [interaction("ann", f"{t}-{n}") for n in range(10)], task="free-text"
                ),
                range(THREADS),
            )
            assert sum(new) == 160
        assert len({i.id for i in store.interactions("ann")}) == 160
        assert store.user("ann").interactions == 160


def test_one_of_16_writers_with_the_same_head_succeeds(location: str) -> None:
    def write(number: int) -> bool:
        try:
            store.add_persona("ann", str(number), source="edit", why="w", expect_head=0)
        except StoreError:
            return False
        return True

    with UserStore(location) as store:
        store.add_user("ann", task="free-text")
        with ThreadPoolExecutor(THREADS) as pool:
            assert sum(pool.map(write, range(THREADS))) == 1
        assert len(store.persona_history("ann")) == 1


def test_open_write_does_not_block_readers(location: str) -> None:
    with UserStore(location) as store:
        store.append("ann", [interaction("ann", "1")], task="free-text")
        with store._database.write() as connection:
            connection.exec_driver_sql("UPDATE pa_users SET task = 'other'")
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(store.user, "ann").result(timeout=60).task == "free-text"


_WRITER = """
import sys
from program.memory.interaction import Interaction
from program.store import UserStore

path, me = sys.argv[1:]
sys.stdin.read(1)
with UserStore(path) as store:
    for n in range(20):
        one = Interaction(id=f"{me}-{n}", user_id="ann", query="q", response="r")
        assert store.append("ann", [one], task="free-text") == 1
"""


def test_processes_create_and_write_one_store_together(location: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, location, name], cwd=ROOT, stdin=subprocess.PIPE)
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0, 0, 0]
    with UserStore(location) as store:
        assert store.user("ann").interactions == 80
        assert len(store.interactions("ann")) == 80
