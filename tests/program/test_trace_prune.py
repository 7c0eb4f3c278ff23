"""Traces are removed by age and by size, oldest first, and never those of a run in progress."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import dspy
import pytest

import personaagent
from program import open_tracer, scripted_lm
from program.errors import ConfigError
from program.spans import about, span
from program.tracing.limits import MAX_MB, OLDER_THAN, trace_limits
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, store_path

DAY = 86_400.0


def add(store: TraceStore, name: str, days_ago: float, *, ends: bool = True, run: str | None = None) -> None:
    """Add a trace of a root and one call below it, with texts of about 40 kB that no other trace has."""
    at = time.time() - days_ago * DAY
    body = " ".join(f"{name}{number}" for number in range(5000))
    attributes = {"run_id": run} if run else {}
    for call, parent in ((f"{name}-root", None), (f"{name}-child", f"{name}-root")):
        store.call_start(
            {
                "project_id": LOCAL_PROJECT,
                "id": call,
                "trace_id": name,
                "parent_id": parent,
                "op_name": "align",
                "started_at": at,
                "inputs": {"text": body},
                "attributes": attributes,
            }
        )
        if ends or parent:
            store.call_end({"project_id": LOCAL_PROJECT, "id": call, "ended_at": at + 1, "output": "done"})


def traces(store: TraceStore) -> set[str]:
    return {call["trace_id"] for call in store.calls(LOCAL_PROJECT)}


def micros(days_ago: float) -> int:
    return int((time.time() - days_ago * DAY) * 1e6)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = TraceStore(tmp_path / "traces.db")
    yield store
    store.close()


def test_traces_that_ended_before_the_time_are_removed_whole(store: TraceStore) -> None:
    for name, days in (("a", 40.0), ("b", 31.0), ("c", 29.0), ("d", 0.0)):
        add(store, name, days)
    pruned = store.prune(LOCAL_PROJECT, before=micros(30))
    assert (pruned.traces, pruned.calls) == (2, 4)
    assert traces(store) == {"c", "d"}
    assert pruned.bytes_after < pruned.bytes_before
    assert store.count(LOCAL_PROJECT) == 4
    with store.database.reading() as db:
        for table in ("payloads", "blob_uses", "blobs"):
            rows = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            assert rows <= 4, table


def test_the_oldest_go_first_until_the_file_is_small_enough(store: TraceStore) -> None:
    for number in range(12):
        add(store, f"t{number:02}", 12.0 - number)
    most = store.prune(LOCAL_PROJECT, before=0).bytes_before // 2
    pruned = store.prune(LOCAL_PROJECT, max_bytes=most)
    assert pruned.bytes_after <= most
    kept = sorted(traces(store))
    assert kept == [f"t{number:02}" for number in range(12 - len(kept), 12)]
    assert 3 <= len(kept) <= 8


def test_nothing_of_a_run_in_progress_is_removed(store: TraceStore) -> None:
    add(store, "ended", 40)
    add(store, "open", 40, ends=False)
    add(store, "earlier", 40, run="fleet")
    add(store, "now", 39, ends=False, run="fleet")
    pruned = store.prune(LOCAL_PROJECT, before=micros(30), max_bytes=1)
    assert pruned.traces == 1
    assert traces(store) == {"open", "earlier", "now"}


def test_dry_run_names_the_same_traces_and_removes_none(store: TraceStore) -> None:
    for number in range(8):
        add(store, f"t{number}", 8.0 - number)
    size = store.prune(LOCAL_PROJECT, before=0).bytes_before
    for limits in ({"before": micros(4.5)}, {"max_bytes": size // 2}):
        planned = store.prune(LOCAL_PROJECT, **limits, dry_run=True)
        assert len(traces(store)) == 8
        # A file has tables and indexes of its own, so that small ones take more traces than half.
        assert planned.traces in ((4,) if "before" in limits else range(4, 8))
        assert 0.25 * size < planned.bytes_after < 0.8 * size
    planned = store.prune(LOCAL_PROJECT, before=micros(4.5), dry_run=True)
    done = store.prune(LOCAL_PROJECT, before=micros(4.5))
    assert (done.traces, done.calls) == (planned.traces, planned.calls)


def test_the_file_becomes_smaller_unless_something_is_in_progress(store: TraceStore) -> None:
    for number in range(8):
        add(store, f"t{number}", 40)
    store.database.erase_deleted()
    before = store.path.stat().st_size
    add(store, "open", 0, ends=False)
    store.prune(LOCAL_PROJECT, before=micros(30), rewrite=True)
    assert store.path.stat().st_size >= before
    store.call_end({"project_id": LOCAL_PROJECT, "id": "open-root", "ended_at": time.time(), "output": ""})
    add(store, "old", 40)
    store.prune(LOCAL_PROJECT, before=micros(30), rewrite=True)
    assert store.path.stat().st_size < before / 2


def test_tracing_keeps_the_limits_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    earlier = TraceStore(store_path(home))
    add(earlier, "old", 40)
    add(earlier, "new", 1)
    earlier.close()
    with open_tracer("local", home=home):
        pass
    monkeypatch.setenv(OLDER_THAN, "30d")
    with open_tracer("local", home=home), about(user_id="ana"), span("ask", query="q"):
        pass
    store = TraceStore(store_path(home))
    assert "old" not in traces(store)
    assert "new" in traces(store)
    assert len(traces(store)) == 2
    store.close()
    monkeypatch.setenv(OLDER_THAN, "a month")
    with pytest.raises(ConfigError, match=OLDER_THAN), open_tracer("local", home=home):
        pass


@pytest.mark.parametrize(
    ("age", "size"), [("30", None), ("d", None), ("-1d", None), (None, 0.0), (None, -1.0)]
)
def test_limit_that_cannot_be_read_is_an_error(age: str | None, size: float | None) -> None:
    with pytest.raises(ConfigError, match="--older-than" if age else "--max-mb"):
        trace_limits(age, size)


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not trace_limits()
    monkeypatch.setenv(MAX_MB, "1.5")
    monkeypatch.setenv(OLDER_THAN, "2w")
    limits = trace_limits()
    assert (limits.max_bytes, limits.seconds) == (1_500_000, 14 * DAY)
    assert trace_limits("1h", 2).max_bytes == 2_000_000


def test_what_remains_is_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"

    def run(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["personaagent", "trace", *words])
        with pytest.raises(SystemExit) as end:
            personaagent.main()
        captured = capsys.readouterr()
        assert end.value.code == 0, captured.err
        return captured.out

    lm = scripted_lm(lambda system, user: {"answer": "Mint."})
    with (
        open_tracer("local", home=home),
        dspy.context(lm=lm),
        about(user_id="ana"),
        span("ask", query="tea?"),
    ):
        dspy.Predict("question -> answer")(question="Which tea?")
    store = TraceStore(store_path(home))
    add(store, "old", 40)
    store.close()
    planned = json.loads(run("prune", "--older-than", "30d", "--dry-run", "--json"))
    assert (planned["traces"], planned["dry_run"]) == (1, True)
    assert run("prune", "--older-than", "30d").startswith("removed 1 trace (2 calls): ")
    (line,) = json.loads(run("list", "--json"))
    assert line["user_id"] == "ana"
    assert run("show", "last").startswith("ask")
    assert "old" not in run("list")
    assert run("prune", "--max-mb", "500").startswith("removed 0 traces")
