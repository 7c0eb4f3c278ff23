"""Run folders that were damaged: one error that names file, line and field, never a raw one."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.records import read_run, read_sweep
from eval.report.analysis import analyse
from eval.report.load import load
from eval.run_folder import RunFolder
from program.errors import DataError, PersonaAgentError

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1"
FILES = ("manifest.json", "queries.jsonl", "prepare.jsonl", "answers.jsonl")
WRONG = (None, True, -1, 7.5, 10**30, "", [], {}, ["x"], {"a": 1}, float("nan"), "\ud800")

Change = Callable[[Any], object]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def rewrite(file: Path, change: Change, line: int = 0) -> None:
    """Change the JSON of a file, or of one line of it."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    content = json.loads(lines[line])
    change(content)
    lines[line] = json.dumps(content)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def setting(*path: str | int, to: object) -> Change:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = to

    return change


def removing(*path: str | int) -> Change:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("answers.jsonl", setting("text", to=3), "line 1: not a AnswerRecord: field `text` must be text"),
        ("answers.jsonl", setting("valid", to="yes"), "field `valid` must be true or false, not text"),
        ("answers.jsonl", setting("seconds", to="1"), "field `seconds` must be a number, not text"),
        ("answers.jsonl", setting("seconds", to=float("nan")), "field `seconds` must be a number, not NaN"),
        ("answers.jsonl", setting("usage", to=[]), "field `usage` must be an object, not a list"),
        (
            "answers.jsonl",
            setting("usage", to={"a": {"calls": None}}),
            "field `usage.a.calls` must be a whole",
        ),
        ("answers.jsonl", setting("failed", to={"stage": "answer"}), "field `failed.kind` is missing"),
        ("answers.jsonl", setting("failed", to="x"), "field `failed` must be an object, not text"),
        ("answers.jsonl", setting("steps", to=[3]), r"field `steps\[0\]` must be an object, not a number"),
        (
            "answers.jsonl",
            setting("probabilities", to={"a": "b"}),
            "field `probabilities.a` must be a number",
        ),
        ("answers.jsonl", setting("user_id", to=["x"]), "field `user_id` must be text, not a list"),
        ("answers.jsonl", removing("query_id"), "field `query_id` is missing"),
        ("queries.jsonl", setting("gold", to={}), "line 1: not a QueryRecord: field `gold` must be text"),
        ("queries.jsonl", setting("query_id", to=None), "field `query_id` must be text, not null"),
        ("prepare.jsonl", setting("learned", to=3), "line 1: not a PrepareRecord: field `learned`"),
        ("prepare.jsonl", setting("method", to=None), "field `method` must be text, not null"),
        ("manifest.json", setting("methods", to=[]), "not the manifest of a run: field `methods`"),
        ("manifest.json", setting("seed", to="0"), "field `seed` must be a whole number, not text"),
        ("manifest.json", setting("official", to=0), "field `official` must be true or false"),
        ("manifest.json", setting("sede", to=0), "field `sede` is unknown"),
        ("manifest.json", removing("task"), "field `task` is missing"),
        ("manifest.json", setting("schema", to=True), "has schema True"),
    ],
)
def test_wrong_field_is_named_with_file_and_line(run: Path, file: str, change: Change, message: str) -> None:
    rewrite(run / file, change)
    with pytest.raises(DataError, match=message) as caught:
        read_run(run)
    assert str(run / file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "manifest.json",
            setting("data", to={"files": ["x"]}),
            r"in `data`: field `files\[0\]` must be an object",
        ),
        (
            "manifest.json",
            setting("data", to={"files": [{"name": "x"}]}),
            r"field `files\[0\].sha256` is missing",
        ),
        ("manifest.json", setting("data", to={"selection": []}), "field `selection` must be an object"),
        (
            "manifest.json",
            setting("data", to={"defects_in_files": [{}]}),
            "field `defects_in_files` is damaged",
        ),
        (
            "prepare.jsonl",
            setting("learned", to={"persona": 3}),
            "in `learned`: field `persona` must be text",
        ),
        (
            "prepare.jsonl",
            setting("learned", to={"persona": "x", "alignment": {"steps": [{}]}}),
            r"field `alignment.steps\[0\].persona_before` is missing",
        ),
        (
            "prepare.jsonl",
            setting("learned", to={"agent_runs": "3"}),
            "field `agent_runs` must be a whole number",
        ),
    ],
)
def test_nested_damage_is_named_by_the_report(run: Path, file: str, change: Change, message: str) -> None:
    for line in range(len((run / file).read_text().splitlines()) if file == "prepare.jsonl" else 1):
        rewrite(run / file, change, line)
    with pytest.raises(DataError, match=message) as caught:
        load(run)
    assert str(run / file) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[" * 60_000 + b"\n", "is nested more than 100 levels deep"),
        (b"\xff\xfe\xfd\n", "is not JSON|is not UTF-8"),
        (b"{\n", "is not JSON"),
        (b"\0\0\0\0\n", "is not JSON|is binary"),
        (b"[]\n", "must be an object|must hold an object"),
    ],
)
def test_other_content_is_named(run: Path, name: str, data: bytes, problem: str) -> None:
    (run / name).write_bytes(data)
    with pytest.raises(DataError, match=problem) as caught:
        read_run(run)
    assert str(run / name) in str(caught.value)


@pytest.mark.parametrize("name", FILES[:1])
def test_folder_in_place_of_a_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(DataError, match="is not a run folder"):
        read_run(run)


def test_resuming_a_damaged_folder_changes_nothing(run: Path) -> None:
    manifest = read_run(run).manifest
    rewrite(run / "answers.jsonl", setting("text", to=3), line=1)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(DataError, match=r"answers\.jsonl`, line 2"):
        RunFolder(run, manifest, [])
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.name in before} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold an object"),
        ('{"over": 3, "runs": []}', "field `over` must be text, not a number"),
        ('{"over": "k", "runs": {}}', "field `runs` must be a list, not an object"),
        ('{"over": "k", "runs": [{"value": "1"}]}', r"field `runs\[0\].run` is missing"),
        ('{"over": "k", "runs": ["x"]}', r"field `runs\[0\]` must be an object, not text"),
    ],
)
def test_damaged_sweep_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_sweep(tmp_path)


def test_sweep_whose_run_is_gone_is_named(tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(OLD / "sweep", tmp_path / "sweep"))
    shutil.rmtree(sweep / "steps=1")
    with pytest.raises(DataError, match=r"steps=1` is not a run folder"):
        load(sweep)


def places(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value in JSON data."""
    items: Any = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in items:
        yield (*path, name)
        if isinstance(value, dict | list):
            yield from places(value, (*path, name))


@pytest.mark.parametrize("name", FILES)
def test_any_wrong_value_anywhere_is_one_error_or_a_report(run: Path, name: str) -> None:
    rng = random.Random(name)
    whole = (run / name).read_text(encoding="utf-8")
    first = json.loads(whole.splitlines()[0] if name.endswith("l") else whole)
    everywhere = list(places(first))
    for _ in range(40):
        place = rng.choice(everywhere)
        change = removing(*place) if rng.random() < 0.3 else setting(*place, to=rng.choice(WRONG))
        rewrite(run / name, change)
        with contextlib.suppress(PersonaAgentError):
            analyse(load(run).any_run)
        (run / name).write_text(whole, encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classic": 1.5}, "field `probabilities` has 1.5 for 'classic', not a number from 0 to 1"),
        ({"classic": -0.1}, "field `probabilities` has -0.1 for 'classic', not a number from 0 to 1"),
        ({"classic": 0.9, "romance": 0.3}, "field `probabilities` sums to 1.2, more than 1"),
    ],
)
def test_probabilities_that_are_none_name_method_user_and_query(
    run: Path, given: dict[str, float], message: str
) -> None:
    rewrite(run / "answers.jsonl", setting("probabilities", to=given))
    with pytest.raises(DataError) as caught:
        load(run)
    start = f"`{run / 'answers.jsonl'}`, method 'constant', user 'ana', query '1101': {message}"
    assert str(caught.value) == f"{start}; correct the method, and run again into another folder"
