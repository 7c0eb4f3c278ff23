"""A damaged store gives its contents or one line that says what to do, never a raw error or other texts."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from program.errors import StoreError
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.store import UserStore, damage

PAGE = 4096
USERS = [f"user{number}" for number in range(6)]
COPIES = 40


def fill(path: Path) -> Path:
    with UserStore(path) as store:
        for user in USERS:
            history = [
                Interaction(
                    id=f"i{number}",
                    user_id=user,
                    query=f"private query {number} of {user}",
                    response=f"response {number}",
                    timestamp=datetime(2024, 1, 1 + number, tzinfo=timezone.utc) if number % 3 else None,
                    metadata={"k": str(number)},
                )
                for number in range(20)
            ]
            store.append(user, history, task="free-text")
            store.add_persona(user, f"private persona of {user}", source="initial", why="w")
            store.save_profile(user, Profile(facts=Facts(interactions=20), prose="private prose"))
            run = store.start_alignment(user, {"steps": 1})
            store.save_step(user, run, 1, {"a": 1})
            store.finish_alignment(
                user,
                run,
                {"x": 1},
                (f"private second persona of {user}", "better"),
                parts={"about": f"private part of {user}"},
                trials=[(3, 1)],
                cohort="tags",
            )
    return path


def contents(path: Path) -> list[Any]:
    with UserStore(path) as store:
        everything: list[Any] = []
        for user in store.users():
            everything += [
                user,
                store.user(user.user_id),
                store.interactions(user.user_id),
                store.interactions(user.user_id, latest=3),
                store.profile(user.user_id),
                store.persona(user.user_id),
                store.persona_history(user.user_id),
                [(row, store.steps(user.user_id, row.id)) for row in store.alignments(user.user_id)],
                store.latest_alignment(user.user_id),
                store.trials("tags", excluding=user.user_id),
            ]
        return everything


def change(path: Path) -> None:
    with UserStore(path) as store:
        for user in (USERS[0], USERS[-1]):
            store.observe(user, query="q", response="r")
            store.rollback(user, 1)
            run = store.start_alignment(user, {})
            store.save_step(user, run, 1, {})
            store.fail_alignment(user, run, "down")
            store.save_profile(user, Profile(facts=Facts(interactions=1)))
        store.forget(USERS[2])
        store.add_user("new", task="free-text")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("whole") / "users.db")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "users.db"))


def flip(count: int) -> Callable[[bytearray, random.Random], None]:
    def damage_bits(data: bytearray, dice: random.Random) -> None:
        for _ in range(count):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)

    return damage_bits


def zero_page(data: bytearray, dice: random.Random) -> None:
    start = PAGE * dice.randrange(len(data) // PAGE)
    data[start : start + PAGE] = bytes(PAGE)


def random_page(data: bytearray, dice: random.Random) -> None:
    start = PAGE * dice.randrange(len(data) // PAGE)
    data[start : start + PAGE] = dice.randbytes(PAGE)


def swap_pages(data: bytearray, dice: random.Random) -> None:
    first, second = (PAGE * number for number in dice.sample(range(len(data) // PAGE), 2))
    pages = data[first : first + PAGE], data[second : second + PAGE]
    data[second : second + PAGE], data[first : first + PAGE] = pages


def cut_off(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(1, len(data)) :]


def append_noise(data: bytearray, dice: random.Random) -> None:
    data += dice.randbytes(dice.randrange(1, 9000))


def header(data: bytearray, dice: random.Random) -> None:
    data[dice.randrange(100)] = dice.randrange(256)


def wrong_encoding(data: bytearray, dice: random.Random) -> None:
    start = data.find(b"private", dice.randrange(len(data)))
    if start >= 0:
        data[start + dice.randrange(20)] = dice.randrange(128, 256)


def other_letters(data: bytearray, dice: random.Random) -> None:
    start = data.find(b"user", dice.randrange(len(data)))
    if start >= 0:
        data[start] = ord("w")


KINDS = {
    "1 bit": flip(1),
    "10 bits": flip(10),
    "100 bits": flip(100),
    "zeroed page": zero_page,
    "random page": random_page,
    "swapped pages": swap_pages,
    "cut off": cut_off,
    "noise at the end": append_noise,
    "header": header,
    "no UTF-8": wrong_encoding,
    "other letters": other_letters,
}


def use(action: Callable[[Path], Any], path: Path) -> tuple[str, Any]:
    """Return the error of an action on a store, empty if there is none, and its result."""
    try:
        return "", action(path)
    except StoreError as error:
        line = str(error)
    assert "\n" not in line
    assert "private" not in line, "an error quotes no user's text"
    return line, None


def is_sound(path: Path) -> bool:
    """Return whether SQLite itself finds nothing wrong: then only a text or a number has changed."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            result = connection.execute("PRAGMA integrity_check").fetchall()
            return result == [("ok",)] and not connection.execute("PRAGMA foreign_key_check").fetchall()
    except sqlite3.Error:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_one_line_or_the_contents_are_right(kind: str, whole: Path, tmp_path: Path) -> None:
    truth, good = contents(whole), whole.read_bytes()
    noticed = 0
    for number in range(COPIES):
        data = bytearray(good)
        KINDS[kind](data, random.Random(number))
        path = tmp_path / f"{number}.db"
        path.write_bytes(data)
        line, got = use(contents, path)
        assert line or got == truth or is_sound(path)
        noticed += bool(line)
    if "page" in kind or kind in ("cut off", "100 bits", "no UTF-8"):
        assert noticed > COPIES / 2


@pytest.mark.parametrize("kind", KINDS)
def test_damage_in_a_large_file_is_no_raw_error(
    kind: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "FULL_CHECK_BYTES", 0)
    monkeypatch.setattr(damage, "QUICK_CHECK_BYTES", 0)
    good = whole.read_bytes()
    for number in range(COPIES // 4):
        data = bytearray(good)
        KINDS[kind](data, random.Random(number))
        path = tmp_path / f"{number}.db"
        path.write_bytes(data)
        use(contents, path)
        use(change, path)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE pa_users SET interactions = 19 WHERE user_id = 'user1'", "the counts of 1 user are wrong"),
        ("UPDATE pa_users SET head = 7", "the counts of 6 users are wrong"),
        ("UPDATE pa_users SET settled = 21 WHERE user_id = 'user1'", "the counts of 1 user are wrong"),
        ("DELETE FROM pa_interactions WHERE id = 'i3'", "the counts of 6 users are wrong"),
        ("DELETE FROM pa_users WHERE user_id = 'user2'", "a row belongs to no user"),
        ("UPDATE pa_personas SET text = x'ff00'", "a stored text cannot be read"),
        ("UPDATE pa_interactions SET response = 7.5, query = x'00'", "a stored text cannot be read"),
        ("UPDATE pa_personas SET parent = 'two'", "a stored number cannot be read"),
        ("UPDATE pa_personas SET created_at = x'00'", "a stored time cannot be read"),
        ("UPDATE pa_alignments SET started_at = 'yesterday'", "a stored time cannot be read"),
        ("UPDATE pa_alignments SET record = '{'", "a stored JSON text cannot be read"),
        ("UPDATE pa_alignments SET record = 7", "a stored JSON text cannot be read"),
        ("UPDATE pa_personas SET parts = '{'", "a stored JSON text cannot be read"),
        ("UPDATE pa_personas SET parts = '[1]'", "a stored JSON text cannot be read"),
        ("UPDATE pa_personas SET parts = 7", "a stored JSON text cannot be read"),
        ("UPDATE pa_personas SET parts = x'ff'", "a stored JSON text cannot be read"),
        ("UPDATE pa_trials SET n_plus = 'three'", "a stored number cannot be read"),
        ("UPDATE pa_trials SET n_minus = 9e999", "a stored number cannot be read"),
        ("DROP INDEX pa_interactions_time; DROP TABLE pa_interactions", "no such table"),
    ],
)
def test_wrong_row_is_named_with_what_to_do(copy: Path, statement: str, reason: str) -> None:
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.executescript(statement)
    with pytest.raises(StoreError, match=reason) as caught:
        contents(copy)
    assert str(caught.value).startswith(f"store `{copy}` is damaged (")
    assert str(caught.value).endswith(
        f"): restore a backup, or save what can be read with `sqlite3 {copy} .recover | sqlite3 NEW.db`"
    )


def test_file_is_not_changed_by_the_check(copy: Path) -> None:
    data = bytearray(copy.read_bytes())
    data[5 * PAGE : 6 * PAGE] = bytes(PAGE)
    copy.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        UserStore(copy)
    assert copy.read_bytes() == bytes(data)
    assert [path.name for path in copy.parent.iterdir()] == ["users.db"]


@pytest.mark.parametrize(("full", "quick"), [(2**30, 2**30), (0, 2**30), (0, 0)])
def test_every_size_of_a_whole_file_opens(
    whole: Path, copy: Path, full: int, quick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "FULL_CHECK_BYTES", full)
    monkeypatch.setattr(damage, "QUICK_CHECK_BYTES", quick)
    assert contents(copy) == contents(whole)


def test_large_file_that_is_cut_off_is_noticed_when_it_is_opened(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "FULL_CHECK_BYTES", 0)
    monkeypatch.setattr(damage, "QUICK_CHECK_BYTES", 0)
    with copy.open("r+b") as file:
        file.truncate(copy.stat().st_size - PAGE)
    with pytest.raises(StoreError, match=r"is cut off|malformed"):
        UserStore(copy)


def test_large_file_with_pages_in_its_log_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "FULL_CHECK_BYTES", 0)
    monkeypatch.setattr(damage, "QUICK_CHECK_BYTES", 0)
    with UserStore(tmp_path / "users.db") as store:
        long = [Interaction(id=str(n), user_id="u", query="q" * 5000, response="r") for n in range(50)]
        store.append("u", long, task="free-text")
        with UserStore(tmp_path / "users.db") as other:
            assert len(other.interactions("u")) == 50


def test_check_runs_beside_a_writer(copy: Path) -> None:
    with UserStore(copy) as store, store._database.write() as connection:
        connection.exec_driver_sql("UPDATE pa_users SET interactions = 99")
        assert contents(copy)
        connection.exec_driver_sql("UPDATE pa_users SET interactions = 20")


def test_advice_quotes_a_path_for_the_shell() -> None:
    assert "`sqlite3 'my data/a.db' .recover | sqlite3 NEW.db`" in damage.advice("my data/a.db", "x")
    assert damage.advice("postgresql://h/d", "x", is_sqlite=False) == (
        "store `postgresql://h/d` is damaged (x): restore a backup"
    )
