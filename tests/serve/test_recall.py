"""What the server keeps in memory of users, and when it no longer does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from program.errors import UnknownUserError
from program.home import home
from program.memory.interaction import Interaction
from program.persona import Persona
from program.serve.recall import Recall
from program.store import UserStore

ANA, BEN = "team/ana é", "ben"
ROOT = Path(__file__).parents[2]


def in_another_process(*words: str) -> None:
    """Run a command of `personaagent` on the store of the test."""
    command = [sys.executable, "-m", "personaagent", *words]
    environment = {**os.environ, "PERSONAAGENT_HOME": str(home()), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def kept(recall: Recall) -> list[str]:
    return sorted(recall._known)


@pytest.fixture
def recall(store: UserStore) -> Recall:
    filled = Recall(store, retrieval="bm25")
    for user_id in (ANA, BEN):
        assert filled.context(user_id, "What shall I cook?").memories
    assert kept(filled) == sorted([ANA, BEN])
    return filled


def test_a_user_forgotten_by_another_process_is_served_no_more(recall: Recall) -> None:
    in_another_process("users", "forget", ANA, "--yes")
    assert recall.context(BEN, "What shall I cook?").memories
    # A request of anyone empties what was kept of all.
    assert kept(recall) == [BEN]
    with pytest.raises(UnknownUserError):
        recall.context(ANA, "What shall I cook?")
    with pytest.raises(UnknownUserError):
        recall.memory(ANA)
    assert kept(recall) == [BEN]


def test_an_interaction_forgotten_by_another_store_is_served_no_more(
    recall: Recall, store: UserStore
) -> None:
    [first, second] = store.interactions(ANA)
    with UserStore(home() / "users.db") as other:
        other.forget_interactions(ANA, [first.id])
    store.observe(ANA, query="What shall I cook on Sunday?", response="Rice.")
    context = recall.context(ANA, "What shall I cook?")
    assert first.id not in context.interaction_ids
    assert "pulses" not in context.text
    assert "ANASECRET" not in context.text
    assert "Rice." in context.text
    assert [item.id for item in recall.memory(ANA)] == [second.id, *context.interaction_ids[:1]]


def test_a_user_who_comes_back_with_the_same_ids_is_read_again(recall: Recall, store: UserStore) -> None:
    ids = [item.id for item in store.interactions(ANA)]
    before = store.head(ANA)
    store.forget(ANA)
    store.readmit(ANA)
    items = [Interaction(id=name, user_id=ANA, query="What shall I cook?", response="Rice.") for name in ids]
    store.append(ANA, items, task="free-text")
    parts = Persona().with_line("Likes rice.", ids[:1])
    store.add_persona(ANA, "Likes rice.", source="edit", why="a test", parts=parts.as_dict())
    after = store.head(ANA)
    assert (after.interactions, after.last_id, after.newest) == (
        before.interactions,
        before.last_id,
        before.newest,
    )
    context = recall.context(ANA, "What shall I cook?")
    assert "Rice." in context.text
    assert "Likes rice." in context.text
    assert "ANASECRET" not in context.text


def test_a_pinned_version_and_a_new_one_are_served_at_once(recall: Recall, store: UserStore) -> None:
    store.add_persona(ANA, "Likes soup.", source="edit", why="a test")
    assert recall.context(ANA).persona == ("Likes soup.",)
    store.pin(ANA, 1)
    assert recall.context(ANA).persona == ("- Likes pulses.",)
    store.unpin(ANA)
    assert recall.context(ANA).persona_version == 2


def test_what_has_not_changed_is_not_read_again(recall: Recall, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recall.context(ANA, "What shall I cook?")

    def read(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    for name in ("interactions", "persona", "user"):
        monkeypatch.setattr(UserStore, name, read)
    assert recall.context(ANA, "What shall I cook?") == before


def test_a_request_that_read_before_a_user_was_forgotten_keeps_nothing(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall = Recall(store, retrieval="bm25")
    whole = store.interactions(ANA)

    def slow(user_id: str, **_: object) -> list[Interaction]:
        monkeypatch.undo()
        store.forget(user_id)
        store.readmit(user_id)
        store.add_user(user_id, task="free-text")
        recall.context(BEN)
        return whole

    monkeypatch.setattr(store, "interactions", slow)
    recall.context(ANA, "What shall I cook?")
    assert kept(recall) == [BEN]
    assert recall.context(ANA, "What shall I cook?").text == ""
