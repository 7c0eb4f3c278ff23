"""Ids that nobody can see or type: new ones are refused, stored ones still open."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import personaagent
from program import Interaction, UserStore
from program.errors import DataError, StoreError
from program.store import checks
from program.store.importers import import_users

UNSEEN = [
    "\u200b",
    "\u202e",
    "\u2066",
    "\u2060",
    "\u00ad",
    "\u2028",
    "\u3164",
    "\u200d",
    "\ufe0f",
    "\U000e0041",
]


def interaction(name: str) -> Interaction:
    return Interaction(id=name, user_id="ana", query="Tea?", response="Mint.")


@pytest.mark.parametrize("character", UNSEEN)
def test_new_id_that_holds_an_unseen_character_is_refused_by_name(tmp_path: Path, character: str) -> None:
    message = rf"contains U\+{ord(character):04X} \(.*\), which nobody can see, at character 3; remove it"
    line = json.dumps({"user_id": f"ann{character}", "query": "Tea?", "response": "Mint."})
    (tmp_path / "a.jsonl").write_text(line)
    with UserStore(tmp_path / "s.db") as store:
        store.add_user("ana", task="free-text")
        with pytest.raises(StoreError, match="`user_id` .* " + message):
            store.add_user(f"ann{character}", task="free-text")
        with pytest.raises(StoreError, match="`id` " + message):
            store.append("ana", [interaction(f"ann{character}")])
        with pytest.raises(DataError, match="`user_id` " + message):
            import_users(store, tmp_path / "a.jsonl")
        assert [user.user_id for user in store.users()] == ["ana"]


@pytest.mark.parametrize(
    "name", ["ann", "Zoë", "می\u200cروم", "க்\u200cஷ", "क्\u200dष", "👩\u200d👧", "❤\ufe0f", "李 明"]
)
def test_id_that_people_write_is_taken(tmp_path: Path, name: str) -> None:
    with UserStore(tmp_path / "s.db") as store:
        store.add_user(name, task="free-text")
        assert store.user(name).user_id == name


def test_stored_id_with_an_unseen_character_opens_and_is_printed_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "ann\u200b\u202e"
    with UserStore(tmp_path / "s.db") as store:
        with monkeypatch.context() as earlier:
            earlier.setattr(checks, "find_unseen", lambda name: None)
            store.add_user(name, task="free-text")
            store.add_user("ana", task="free-text")
            store.append("ana", [interaction(name)])
        store.add_user(name, task="free-text")
        assert store.append("ana", [interaction(name)]) == 0
        store.observe(name, query="Tea?", response="Mint.")
    for words in (["list"], ["show", name]):
        monkeypatch.setattr(sys, "argv", ["personaagent", "users", *words, "--store", str(tmp_path / "s.db")])
        with pytest.raises(SystemExit) as end:
            personaagent.main()
        assert not end.value.code
        printed = capsys.readouterr().out
        assert "ann\\u200b\\u202e" in printed
        assert not set(printed) & set(name[3:])
