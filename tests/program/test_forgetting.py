"""Forgetting users and interactions: what is deleted, what is derived again, what stays away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimizers import align_user
from program import Interaction, UserStore, get_task, import_users, open_session, open_tracer, scripted_lm
from program.errors import ForgottenUserError, StoreError, UnknownInteractionError, UnknownUserError
from program.evidence import collect
from program.home import home
from program.models.cache import use_cache
from program.persona import first_persona
from program.store import erasers

CANARY = "Quetzalcoatlus"


def said(number: int, query: str = "a film", response: str = "action") -> Interaction:
    return Interaction(id=f"i{number}", user_id="ana", query=f"{query} {number}", response=response)


@pytest.fixture
def store(location: str) -> Iterator[UserStore]:
    """Eight interactions of ana, the fourth with the canary, and one of bo."""
    with UserStore(location) as store:
        texts = [said(number, CANARY if number == 3 else "a film") for number in range(8)]
        store.append("ana", texts, task="LaMP-2M")
        other = Interaction(id="i3", user_id="bo", query=f"{CANARY} 3", response="comedy")
        store.append("bo", [other], task="LaMP-2M")
        yield store


def add_parts(store: UserStore, *lines: tuple[str, str]) -> None:
    persona = first_persona().with_facts("words", "counts")
    for text, interaction_id in lines:
        persona = persona.with_line(text, [interaction_id])
    evidence = collect(store.interactions("ana"), get_task("LaMP-2M"))
    store.add_persona(
        "ana", persona.render(evidence), source="alignment", why="a gain", parts=persona.as_dict()
    )


class TestInteractions:
    def test_lines_and_texts_that_rest_on_it_go_and_the_others_stay(self, store: UserStore) -> None:
        add_parts(store, (f"Likes {CANARY}.", "i3"), ("Likes heists.", "i4"))
        store.add_persona("ana", f"Ana likes {CANARY}.", source="edit", why="free text")
        receipt = store.forget_interactions("ana", ["i3"])
        assert receipt.erased["interactions"] == 1
        versions = store.persona_history("ana")
        assert [(row.version, row.source, row.parent) for row in versions] == [
            (1, "alignment", None),
            (3, "forget", 1),
        ]
        for row in versions:
            assert CANARY not in row.text
            assert [line["text"] for line in (row.parts or {})["lines"]] == ["Likes heists."]
        assert "answered 7 times" in versions[-1].text
        assert store.user("ana").persona_version == 3
        assert CANARY in store.interactions("bo")[0].query

    def test_a_free_text_is_followed_by_the_first_persona(self, store: UserStore) -> None:
        store.add_persona("ana", f"Ana likes {CANARY}.", source="alignment", why="rewritten")
        store.forget_interactions("ana", ["i3"])
        [version] = store.persona_history("ana")
        assert version.text == first_persona().render([])
        assert version.why == "1 interaction forgotten"

    def test_a_free_role_of_a_version_of_parts_counts_as_free_text(self, store: UserStore) -> None:
        parts = {**first_persona().as_dict(), "role": f"You know {CANARY}."}
        store.add_persona("ana", f"You know {CANARY}.", source="alignment", why="w", parts=parts)
        store.forget_interactions("ana", ["i3"])
        assert CANARY not in store.persona_history("ana")[0].text

    def test_parts_that_cannot_be_read_count_as_free_text(self, store: UserStore) -> None:
        store.add_persona("ana", CANARY, source="alignment", why="w", parts={"lines": [], "x": CANARY})
        store.forget_interactions("ana", ["i3"])
        assert CANARY not in str(store.persona_history("ana"))

    def test_a_pin_stays_on_a_version_that_stays(self, store: UserStore) -> None:
        add_parts(store, ("Likes heists.", "i4"))
        store.pin("ana", 1)
        store.forget_interactions("ana", ["i3"])
        assert store.user("ana").pinned == 1
        assert store.user("ana").persona_version == 1

    def test_a_pin_on_a_version_that_goes_is_lifted(self, store: UserStore) -> None:
        store.add_persona("ana", f"Ana likes {CANARY}.", source="edit", why="free text")
        store.pin("ana", 1)
        store.forget_interactions("ana", ["i3"])
        assert store.user("ana").pinned is None

    def test_order_of_arrival_and_what_is_learned_stay_right(self, store: UserStore) -> None:
        run = store.start_alignment("ana", {})
        store.finish_alignment("ana", run, {}, persona=("Be brief.", "w"))
        store.append("ana", [said(8), said(9)])
        store.forget_interactions("ana", ["i0", "i8"])
        assert [item.id for item in store.interactions("ana", arrived_after=7)] == ["i9"]
        assert store.user("ana").stale
        store.forget_interactions("ana", ["i9"])
        assert not store.user("ana").stale
        store.append("ana", [said(10)])
        assert store.user("ana").interactions == 8
        assert [item.id for item in store.interactions("ana", arrived_after=7)] == ["i10"]

    def test_records_of_alignments_go_and_a_running_one_stores_nothing(self, store: UserStore) -> None:
        run = store.start_alignment("ana", {})
        store.save_step("ana", run, 1, {"asked": CANARY})
        store.forget_interactions("ana", ["i3"])
        with pytest.raises(StoreError):
            store.finish_alignment("ana", run, {"asked": CANARY}, persona=(f"Likes {CANARY}.", "w"))
        assert store.alignments("ana") == []

    def test_it_does_not_come_back(self, store: UserStore, tmp_path: Path) -> None:
        store.forget_interactions("ana", ["i3"])
        assert store.append("ana", [said(3, CANARY), said(11)]) == 1
        lines = [{"user_id": "ana", "id": f"i{n}", "query": CANARY, "response": "action"} for n in (3, 12)]
        path = tmp_path / "again.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        assert import_users(store, path, task="LaMP-2M").new == 1
        assert "i3" not in [item.id for item in store.interactions("ana")]

    def test_it_can_be_repeated_and_an_unknown_one_changes_nothing(self, store: UserStore) -> None:
        store.forget_interactions("ana", ["i3"])
        assert store.forget_interactions("ana", ["i3"]).erased["interactions"] == 0
        with pytest.raises(UnknownInteractionError, match=r"no interaction 'i77'; nothing was forgotten"):
            store.forget_interactions("ana", ["i4", "i77"])
        assert store.user("ana").interactions == 7

    def test_an_open_session_forgets_too(self, store: UserStore) -> None:
        session = open_session(store, "ana", prose=False, wikipedia=False)
        assert len(session.agent.context.memory) == 8
        store.forget_interactions("ana", ["i3"])
        store.append("ana", [said(8)])
        agent = session.agent
        assert "i3" not in [item.id for item in agent.context.memory]
        assert len(agent.context.memory) == 8


class TestUsers:
    def test_no_import_and_no_observation_brings_the_user_back(
        self, store: UserStore, tmp_path: Path
    ) -> None:
        store.forget("ana")
        with pytest.raises(ForgottenUserError, match="personaagent users readmit USER"):
            store.add_user("ana", task="LaMP-2M")
        with pytest.raises(ForgottenUserError):
            store.append("ana", [said(1)], task="LaMP-2M")
        path = tmp_path / "again.jsonl"
        lines = [{"user_id": user, "query": "q", "response": "action"} for user in ("ana", "chi")]
        path.write_text("\n".join(map(json.dumps, lines)))
        report = import_users(store, path, task="LaMP-2M")
        assert (report.users, report.new, report.forgotten) == (2, 1, 1)
        assert [user.user_id for user in store.users()] == ["bo", "chi"]

    def test_a_readmitted_user_begins_anew(self, store: UserStore) -> None:
        store.forget_interactions("ana", ["i3"])
        store.forget("ana")
        assert store.readmit("ana")
        assert not store.readmit("ana")
        store.append("ana", [said(3, CANARY), said(4)], task="LaMP-2M")
        assert [item.id for item in store.interactions("ana")] == ["i4"]

    def test_it_can_be_repeated_and_an_unknown_user_is_an_error(self, store: UserStore) -> None:
        assert store.forget("ana").erased["users"] == 1
        assert store.forget("ana").erased["users"] == 0
        with pytest.raises(UnknownUserError, match="did you mean 'bo'"):
            store.forget("bob")
        assert store.user("bo").interactions == 1

    def test_the_log_says_who_and_what_and_no_content(self, store: UserStore) -> None:
        store.forget("ana", actor="key support")
        store.readmit("ana")
        entries = store.audit()
        assert [(entry.action, entry.actor) for entry in entries] == [
            ("forget user", "key support"),
            ("readmit", "python"),
        ]
        assert entries[0].details["interactions"] == 8
        assert CANARY not in str(entries)
        assert "ana" not in str(entries)

    def test_a_user_known_from_traces_alone_can_be_forgotten(self, store: UserStore) -> None:
        with open_tracer("local"), dspy.context(lm=scripted_lm(answer)):
            open_session(store, "ana", prose=False, wikipedia=False).agent(query=CANARY)
        store._database.change(lambda connection: connection.exec_driver_sql("DELETE FROM pa_users"))
        assert store.forget("ana").erased["traced calls"] > 0
        with pytest.raises(ForgottenUserError):
            store.add_user("ana", task="LaMP-2M")

    def test_what_one_place_cannot_delete_stops_no_other_and_is_said(
        self, store: UserStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = []

        def fails(*_: Any, **__: Any) -> int:
            raise StoreError("the disk is away")

        def works(*_: Any, **__: Any) -> int:
            done.append("works")
            return 0

        monkeypatch.setattr(erasers, "_erasers", lambda: {"notes": fails, "others": works})
        with pytest.raises(
            StoreError, match=r"notes \(the disk is away\); mend that, and forget it once more"
        ):
            store.forget("ana")
        assert done == ["works"]
        monkeypatch.setattr(erasers, "_erasers", lambda: {"others": works})
        store.forget("ana")


def answer(system: str, user: str) -> Any:
    if "`action`" in user:
        return {"thought": CANARY, "action": {"tool": "finish", "answer": "action"}}
    return {"answer": "action"}


def find_canary(folder: Path) -> list[Path]:
    """Return the files that hold the canary in any of the ways in which a text is stored."""
    forms = [
        CANARY.encode(),
        CANARY.lower().encode(),
        CANARY.upper().encode(),
        CANARY.encode("utf-16-le"),
        CANARY.encode("utf-16-be"),
        "".join(f"\\u{ord(char):04x}" for char in CANARY).encode(),
    ]
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        inflated = b"".join(inflate(data))
        if any(form in data or form in inflated for form in forms):
            found.append(path)
    return found


def inflate(data: bytes) -> Iterator[bytes]:
    """Yield what each zlib or gzip stream in ``data`` holds."""
    for magic, bits in ((b"\x78\x9c", zlib.MAX_WBITS), (b"\x1f\x8b", zlib.MAX_WBITS | 16)):
        start = data.find(magic)
        while start >= 0:
            try:
                yield zlib.decompressobj(bits).decompress(data[start:])
            except zlib.error:
                pass
            start = data.find(magic, start + 1)


class TestBytes:
    @pytest.fixture
    def filled(self) -> Path:
        """The data directory of a user with the canary in the store, the traces and the cache."""
        use_cache(home())
        with (
            UserStore(home() / "users.db") as store,
            open_tracer("local"),
            dspy.context(lm=scripted_lm(answer)),
        ):
            store.append("ana", [said(number, CANARY) for number in range(6)], task="LaMP-2M")
            align_user(store, "ana", wikipedia=False)
            open_session(store, "ana", prose=False, wikipedia=False).agent(query=CANARY)
            add_parts(store, ("Likes heists.", "i4"))
            store.correct("ana", line="Likes heists.", text=f"Likes {CANARY}.", why=CANARY)
            dspy.cache.put({"prompt": CANARY}, f"{CANARY}?")
        held = " ".join(path.name for path in find_canary(home()))
        assert all(name in held for name in ("users.db", "traces.db", "cache.db")), held
        return home()

    def test_no_byte_of_the_user_is_left_in_the_data_directory(self, filled: Path) -> None:
        with UserStore(filled / "users.db") as store:
            receipt = store.forget("ana")
        assert receipt.pending == ""
        assert find_canary(filled) == []

    def test_no_byte_of_a_forgotten_interaction_is_left(self, filled: Path) -> None:
        with UserStore(filled / "users.db") as store:
            ids = [item.id for item in store.interactions("ana")]
            store.append("ana", [said(20)])
            store.forget_interactions("ana", ids)
            assert store.user("ana").interactions == 1
        assert find_canary(filled) == []

    def test_an_open_reader_is_named_and_compact_ends_the_work(
        self, filled: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(erasers, "_WAIT", 0.2)
        with UserStore(filled / "users.db") as store:
            with UserStore(filled / "users.db") as other, other._database.read() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM pa_interactions").fetchall()
                receipt = store.forget("ana")
                assert "another connection still reads the file" in receipt.pending
            assert store.compact() == ""
        assert find_canary(filled) == []

    @pytest.mark.parametrize("place", ["forget_user", "erase", "compact"])
    def test_a_kill_at_any_step_is_made_good_by_the_same_command(self, filled: Path, place: str) -> None:
        script = f"""
import os, signal
from program import UserStore
from program.home import home
from program.store import erasers, forgetting
from program.store.database import Database

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

place = {place!r}
if place == "forget_user":
    forgetting.forget_user = die
elif place == "erase":
    erasers._erase = die
else:
    Database.compact = die
with UserStore(home() / "users.db") as store:
    store.forget("ana")
"""
        killed = subprocess.run([sys.executable, "-c", script], env={**os.environ}, check=False)
        assert killed.returncode == -signal.SIGKILL
        with UserStore(filled / "users.db") as store:
            store.forget("ana")
            with pytest.raises(ForgottenUserError):
                store.add_user("ana", task="LaMP-2M")
        assert find_canary(filled) == []
