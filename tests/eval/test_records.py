from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.contracts import Failed
from eval.manifest import make_manifest
from eval.methods.baselines import Constant, UserMajority
from eval.records import (
    AnswerRecord,
    Manifest,
    PrepareRecord,
    QueryRecord,
    SweepEntry,
    SweepManifest,
    read_manifest,
    read_run,
    read_sweep,
    to_line,
    write_json,
)
from eval.run_folder import RunFolder
from program.errors import ConfigError, DataError
from program.task import Task
from program.usage import Usage

QUERIES = [QueryRecord(user_id=user, query_id=f"q{i}", gold="comedy") for user in ("b", "a") for i in (1, 0)]


@pytest.fixture
def manifest(movies: Task) -> Manifest:
    methods = {"user-majority": UserMajority(), "constant": Constant()}
    return make_manifest(task=movies, data={}, methods=methods)


def answer(method: str = "constant", user: str = "a", query: str = "q0", **fields: Any) -> AnswerRecord:
    return AnswerRecord(method=method, user_id=user, query_id=query, **{"text": "comedy", **fields})


def failure(method: str = "constant", user: str = "a", query: str = "q0", **fields: Any) -> AnswerRecord:
    failed = Failed(stage="answer", kind="KeyError", error="x")
    return answer(method, user, query, text=None, failed=failed, **fields)


def write(path: Path, manifest: Manifest, *records: PrepareRecord | AnswerRecord) -> None:
    with RunFolder(path, manifest, QUERIES) as folder:
        for record in records:
            folder.append(record)


def test_run_is_sorted_by_method_user_and_query(tmp_path: Path, manifest: Manifest) -> None:
    keys = [(m, u, q) for m in ("constant", "user-majority") for u in ("b", "a") for q in ("q1", "q0")]
    write(tmp_path, manifest, *(answer(*key) for key in keys))
    run = read_run(tmp_path)
    assert [query.key for query in run.queries] == [("a", "q0"), ("a", "q1"), ("b", "q0"), ("b", "q1")]
    # Methods are in the manifest's order, not in the alphabet's.
    assert list(run.answers) == sorted(keys, key=lambda key: (key[0] == "constant", *key[1:]))


def test_last_attempt_counts_and_all_attempts_cost(tmp_path: Path, manifest: Manifest) -> None:
    write(
        tmp_path,
        manifest,
        failure(usage={"answer": Usage(calls=2, usd=0.5)}, seconds=1.0),
        answer(usage={"answer": Usage(calls=1, usd=0.25), "extra": Usage(calls=4)}, seconds=2.0),
        answer(query="q1"),
        failure(query="q1"),
        PrepareRecord(method="constant", user_id="a", learned={}, usage={"prepare": Usage(calls=8)}),
        answer("user-majority", usage={"answer": Usage(calls=16)}),
    )
    run = read_run(tmp_path)
    first, second = run.queries[:2]
    last, retried = run.answer("constant", first), run.answer("constant", second)
    assert last is not None
    assert retried is not None
    assert (last.text, retried.text) == ("comedy", None)
    assert run.answer("constant", run.queries[2]) is None
    # Of four queries, one has an answer, one failed last, two were never attempted.
    assert (run.missing("constant"), run.missing("user-majority")) == (3, 3)
    cost = run.cost("constant", "answer")
    assert (cost.usage.calls, cost.usage.usd, cost.seconds, cost.attempts) == (7, 0.75, 3.0, 4)
    assert run.cost("constant", "prepare").usage.calls == 8
    assert run.spent().calls == 31


plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | plain_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=6,
)


@given(
    text=plain_text,
    user=plain_text,
    steps=st.lists(st.dictionaries(plain_text, plain_json, max_size=3), max_size=3),
    usage=st.dictionaries(plain_text, st.builds(Usage, calls=st.integers(0, 99)), max_size=2),
)
def test_records_round_trip_as_one_line(text: str, user: str, steps: Any, usage: Any) -> None:
    record = answer(user=user, text=text, steps=steps, usage=usage, probabilities={"comedy": 0.5})
    line = to_line(record)
    assert (line.count("\n"), line[-1]) == (1, "\n")
    content = json.loads(line)
    assert content.pop("usage") == {stage: vars(totals) for stage, totals in usage.items()}
    assert AnswerRecord(**{**content, "usage": usage, "prompts": ()}) == record


def test_failure_is_read_back_as_value(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path, manifest, failure())
    (record,) = read_run(tmp_path).answers.values()
    assert record.failed == Failed(stage="answer", kind="KeyError", error="x")


@pytest.mark.parametrize("name", ["answers.jsonl", "prepare.jsonl"])
@pytest.mark.parametrize("cut", [1, 30, 10**6])
def test_any_torn_tail_is_cut_off_before_the_next_record(
    name: str, cut: int, tmp_path: Path, manifest: Manifest
) -> None:
    prepared = [PrepareRecord(method="constant", user_id=user, learned={"n": 1}) for user in "ab"]
    write(tmp_path, manifest, *prepared, answer(), answer(query="q1"))
    file = tmp_path / name
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes((first + second)[:-cut])
    torn = b"" if cut >= len(first + second) else first
    with RunFolder(tmp_path, manifest, QUERIES):
        assert file.read_bytes() == torn
    write(tmp_path, manifest, prepared[1], answer(query="q1"))
    run = read_run(tmp_path)
    assert run.answers["constant", "a", "q1"].text == "comedy"
    assert run.prepared["constant", "b"].learned == {"n": 1}


def test_torn_line_longer_than_a_block_is_cut_off(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path, manifest, answer())
    file = tmp_path / "answers.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b"x" * 200_000)
    with RunFolder(tmp_path, manifest, QUERIES):
        assert file.read_bytes() == whole


def test_folder_without_manifest_is_started_again(tmp_path: Path, manifest: Manifest) -> None:
    # A process was killed while it wrote the folder's first files.
    (tmp_path / "run.lock").touch()
    (tmp_path / "queries.jsonl").write_text('{"user_id": "a", "que')
    (tmp_path / "manifest.json.part").write_text("{")
    write(tmp_path, manifest, answer())
    assert len(read_run(tmp_path).queries) == 4


def test_opened_folder_knows_answers_and_stored_preparations(tmp_path: Path, manifest: Manifest) -> None:
    prepared = PrepareRecord(
        method="constant", user_id="a", learned={"n": 1}, usage={"prepare": Usage(calls=3)}
    )
    failed = Failed(stage="prepare", kind="KeyError", error="x")
    write(
        tmp_path,
        manifest,
        prepared,
        PrepareRecord(method="constant", user_id="b", failed=failed),
        answer(),
        failure(query="q1"),
    )
    with RunFolder(tmp_path, manifest, QUERIES) as folder:
        assert (folder.learned("constant", "a"), folder.learned("constant", "b")) == ({"n": 1}, None)
        assert folder.has_answer("constant", "a", "q0")
        assert not folder.has_answer("constant", "a", "q1")
        assert (folder.count_answers(), folder.spent.calls) == ({"constant": 1}, 3)
        folder.append(answer(query="q1"))
        assert folder.has_answer("constant", "a", "q1")


def test_methods_that_are_added_keep_the_first_command(tmp_path: Path, movies: Task) -> None:
    def of(**methods: Any) -> Manifest:
        return make_manifest(task=movies, data={}, methods=methods, command=" ".join(methods))

    write(tmp_path, of(constant=Constant()))
    write(tmp_path, of(majority=UserMajority()))
    stored = read_manifest(tmp_path)
    assert (list(stored.methods), stored.command) == (["constant", "majority"], "constant")


def test_lock_is_released_after_a_refusal(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path, manifest)
    with pytest.raises(ConfigError, match="`seed` 0, not 5"):
        RunFolder(tmp_path, replace(manifest, seed=5), QUERIES)
    write(tmp_path, manifest, answer())


def test_run_folder_is_private(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path / "new" / "run", manifest)
    assert (tmp_path / "new" / "run").stat().st_mode & 0o077 == 0


def test_file_as_run_folder_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to `--out`"):
        RunFolder(tmp_path / "file", manifest, QUERIES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold an object, got list"),
        ('{"schema": 2}', "has schema 2, but this version reads up to 1: update personaagent"),
        ('{"schema": "two"}', "has schema 'two', but"),
        ('{"task": "LaMP-2M"}', "is not the manifest of a run"),
        ('{"task": "LaMP-2M", "methods": ["rag"]}', "is not the manifest of a run"),
    ],
)
def test_damaged_manifest_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_run(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)


def test_folder_that_is_not_a_run_is_named_with_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a run folder; make one with `personaagent eval run --out`"):
        read_run(tmp_path)


def test_sweep_round_trips_and_other_folders_are_not_sweeps(tmp_path: Path) -> None:
    assert read_sweep(tmp_path) is None
    sweep = SweepManifest(over="k", runs=[SweepEntry(value="1", run="k=1")])
    write_json(tmp_path / "sweep.json", sweep)
    assert read_sweep(tmp_path) == sweep
    (tmp_path / "sweep.json").write_text('{"over": "k"}')
    with pytest.raises(DataError, match="is not the list of runs of a sweep"):
        read_sweep(tmp_path)


def test_write_json_replaces_a_file_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"name": "Zoë"})
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "Zoë"}

    def fail(self: Path, target: Path) -> Path:
        raise OSError("the machine lost power")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="lost power"):
        write_json(file, {"name": "Ana"})
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "Zoë"}
