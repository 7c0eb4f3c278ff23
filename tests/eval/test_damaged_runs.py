"""Damaged run folders: an error that names file, line and field, or a right load."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.records import read_run
from eval.report.load import load
from program.errors import DataError

RUN = Path(__file__).parents[1] / "fixtures" / "v0_1" / "run"

Content = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("queries.jsonl", lambda r: r.update(user_id=None), "field `user_id`"),
        ("queries.jsonl", lambda r: r.update(query_id=[1]), "field `query_id`"),
        ("queries.jsonl", lambda r: r.pop("query_id"), "field `query_id`"),
        ("answers.jsonl", lambda r: r.update(usage=[]), "field `usage`"),
        ("answers.jsonl", lambda r: r.update(usage={"a": {"calls": "x"}}), "field `usage.a.calls`"),
        ("answers.jsonl", lambda r: r.update(seconds={}), "field `seconds`"),
        ("answers.jsonl", lambda r: r.update(failed={"stage": 1}), "field `failed"),
        ("prepare.jsonl", lambda r: r.update(learned="x"), "field `learned`"),
    ],
)
def test_error_names_file_line_and_field(
    folder: Path, file: str, damage: Callable[[Content], object], message: str
) -> None:
    lines = (folder / file).read_text().splitlines()
    record = json.loads(lines[1])
    damage(record)
    lines[1] = json.dumps(record)
    (folder / file).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"{file}`, line 2: .*{message}"):
        read_run(folder)


@pytest.mark.parametrize("content", [b"[" * 60_000 + b"\n", b'{"a": "\xff"}\n', b"7\n", b"null\n"])
@pytest.mark.parametrize("file", ["queries.jsonl", "answers.jsonl", "manifest.json"])
def test_file_that_is_not_a_record_is_refused(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=file):
        read_run(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("methods", []), ("methods", {"a": 1}), ("data", "x"), ("seed", "x"), ("model", 3), ("task", None)],
)
def test_damaged_manifest_names_the_field(folder: Path, field: str, value: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(DataError, match=rf"manifest.json` is not the manifest of a run: field `{field}"):
        read_run(folder)


def test_damaged_nested_data_is_named_by_the_report(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "data": {**manifest["data"], "files": [1]}}))
    with pytest.raises(DataError, match=r"manifest.json`: field `data` is damaged"):
        load(folder)


def test_any_damaged_byte_gives_a_load_or_an_error_of_ours(folder: Path) -> None:
    dice = random.Random(2)
    for _ in range(60):
        path = folder / dice.choice(["manifest.json", "queries.jsonl", "answers.jsonl", "prepare.jsonl"])
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            load(folder)
        except Exception as error:  # noqa: BLE001 - any other kind fails the test
            assert type(error).__module__ == "program.errors", error  # noqa: PT017
        path.write_bytes(content)
