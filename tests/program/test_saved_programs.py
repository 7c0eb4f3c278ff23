"""Saved programs: private, without secrets, and damaged ones are refused with a reason."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from program.agent import PersonaAgent
from program.errors import DataError
from program.memory.episodic import EpisodicMemory
from program.task import get_task
from program.tools import ToolSet

State = dict[str, Any]


def agent(persona: str = "You know ana.") -> PersonaAgent:
    return PersonaAgent(
        task=get_task("free-text"), memory=EpisodicMemory("ana", []), tools=ToolSet([]), persona=persona
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    agent("You know bo.").save(tmp_path / "bo.json")
    return tmp_path / "bo.json"


@pytest.mark.parametrize("name", ["a.json", "a.pkl"])
def test_only_the_owner_can_read_a_saved_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old")
    path.chmod(0o644)
    agent().save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [name]
    other = agent("You know bo.")
    other.load(path, allow_pickle=True)
    assert other.persona == "You know ana."


def test_only_the_owner_can_read_a_saved_folder(tmp_path: Path) -> None:
    agent().save(tmp_path / "whole", save_program=True)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "whole").iterdir()} == {0o600}
    assert (tmp_path / "whole").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("whole", [False, True])
def test_saved_model_has_settings_but_no_keys_or_headers(tmp_path: Path, whole: bool) -> None:
    program = agent()
    program.act.lm = dspy.LM(
        "openai/gpt-4o-mini",
        temperature=0.3,
        api_key="sk-secret-1",
        extra_headers={"Authorization": "Bearer secret-2"},
        aws_secret_access_key="secret-3",
        api_base="https://ana:secret-4@models.example/v1",
        launch_kwargs={"token": "secret-5"},
    )
    path = tmp_path / ("whole" if whole else "a.json")
    program.save(path, save_program=whole)
    files = list(path.iterdir()) if whole else [path]
    content = b"".join(file.read_bytes() for file in files)
    assert b"secret" not in content
    assert b"temperature" in content
    assert program.act.lm.kwargs["api_key"] == "sk-secret-1"


def test_address_without_a_password_is_saved(tmp_path: Path) -> None:
    program = agent()
    program.act.lm = dspy.LM("openai/local", api_base="http://127.0.0.1:8000/v1")
    program.save(tmp_path / "a.json")
    other = agent()
    other.load(tmp_path / "a.json", allow_unsafe_lm_state=True)
    assert other.act.lm.kwargs["api_base"] == "http://127.0.0.1:8000/v1"


def test_failed_save_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dspy.Module, "save", fail)
    with pytest.raises(OSError, match="No space"):
        agent().save(saved)
    monkeypatch.undo()
    other = agent()
    other.load(saved)
    assert other.persona == "You know bo."
    assert len(list(saved.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("act"), "field `act` is missing"),
        (lambda s: s.update(act=[]), "field `act` must be an object, not a list"),
        (lambda s: s.pop("metadata"), "field `metadata` is missing"),
        (lambda s: s["metadata"].clear(), "field `metadata.dependency_versions` is missing"),
        (lambda s: s["metadata"].update(dependency_versions={"cake": "1"}), "KeyError: 'cake'"),
        (lambda s: s["act"].pop("lm"), "field `act.lm` is missing"),
        (lambda s: s["act"].update(lm=7), "field `act.lm` must be an object, not a number"),
        (lambda s: s["act"].update(lm={}), "field `act.lm.model` is missing"),
        (lambda s: s["act"].update(lm={"model": "x/y", "_dspy_lm_class": "no.Such"}), "cannot be loaded"),
        (lambda s: s["act"].update(demos="x"), "field `act.demos` must be a list, not text"),
        (lambda s: s["act"].update(demos=[1]), r"field `act.demos\[0\]` must be an object"),
        (lambda s: s["act"].update(dem0s=[]), "field `act.dem0s` is unknown"),
        (lambda s: s["act"].update(signature=None), "field `act.signature` is missing"),
        (lambda s: s["act"]["signature"].update(instructions=3), "instructions` must be text, not a number"),
        (lambda s: s["act"]["signature"].update(instructions=" "), "must not be empty"),
        (lambda s: s["act"]["signature"].update(instructions="x" * 9999), "at most 4000 characters"),
        (lambda s: s["act"]["signature"].update(instructions="a\0"), "NUL"),
        (lambda s: s["act"]["signature"].update(instructions="a\ud800"), "surrogate"),
        (lambda s: s["act"]["signature"]["fields"].pop(), "has 5 items, not 6"),
        (lambda s: s["act"]["signature"]["fields"][2].pop("prefix"), r"fields\[2\].prefix` is missing"),
        (lambda s: s["act"]["signature"]["fields"].__setitem__(0, 1), r"fields\[0\]` must be an object"),
    ],
)
def test_error_names_the_damaged_field_and_the_agent_is_unchanged(
    saved: Path, damage: Callable[[State], object], message: str
) -> None:
    state = json.loads(saved.read_text())
    damage(state)
    saved.write_text(json.dumps(state))
    other = agent()
    with pytest.raises(DataError, match=message) as caught:
        other.load(saved)
    assert f"`{saved}`" in str(caught.value)
    assert "save the program again" in str(caught.value)
    assert (other.persona, other.act.lm, other.act.demos) == ("You know ana.", None, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"[]", "must be an object, not a list"),
        (b"[" * 60_000, "nested"),
        (b"\x80\x04binary\0", "binary"),
        (b'{"act": "\xff"}', "UTF-8"),
    ],
)
def test_file_that_is_not_a_program_is_refused(saved: Path, content: bytes, message: str) -> None:
    saved.write_bytes(content)
    with pytest.raises(DataError, match=message):
        agent().load(saved)


def test_missing_file_and_cut_pickle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        agent().load(tmp_path / "no.json")
    agent().save(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes((tmp_path / "a.pkl").read_bytes()[:50])
    with pytest.raises(DataError, match="cannot be loaded"):
        agent().load(tmp_path / "a.pkl", allow_pickle=True)


def test_pickle_and_other_names_are_refused_as_in_dspy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        agent().load(tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=r"\.json"):
        agent().load(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"\.json"):
        agent().save(tmp_path / "a.txt")


def test_any_damaged_byte_gives_a_load_or_a_data_error(saved: Path) -> None:
    content, dice = saved.read_bytes(), random.Random(1)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        saved.write_bytes(damaged)
        other = agent()
        try:
            other.load(saved)
        except DataError:
            assert other.persona == "You know ana."
