"""Damage of the trace file and its key: the traced program runs, and one bad row hides no other."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from program.errors import StoreError
from program.side_files import files_set_aside
from program.spans import about, span
from program.tracing.content import ContentPolicy, installation_key
from program.tracing.forget import forget_user
from program.tracing.server.schema import VERSION
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, open_tracer, store_path
from program.tracing.view import personas, reader
from program.tracing.view.page.html import export_page

TEXT = "Which of the many kinds of tea that the shop sells is the best one for a cold evening? " * 3


def trace(home: Path, *users: str) -> None:
    with open_tracer("local", home=home):
        for user in users:
            with about(user_id=user), span("ask", query=f"{user} {TEXT}") as opened:
                opened.output(answer="Mint.")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("personaagent")]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("traced")
    trace(home, "ana", "ben", "cleo")
    return home


@pytest.fixture
def home(traced: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(traced, tmp_path / "home"))


def read_all(path: Path) -> list[reader.CallLine]:
    store = TraceStore(path)
    try:
        lines = reader.list_traces(store)
        for line in lines:
            if not line.trace_id.startswith("damaged-"):
                reader.show_trace(store, line.trace_id)
            if line.user_id:
                personas.persona_history(store, line.user_id)
        for call in reader.export_calls(store):
            json.dumps(call, allow_nan=False)
        export_page(store)
        return lines
    finally:
        store.close()


def change(home: Path, statement: str, *parameters: Any) -> None:
    with contextlib.closing(sqlite3.connect(store_path(home))) as connection, connection:
        assert connection.execute(statement, parameters).rowcount > 0


def test_file_damaged_anywhere_gives_data_or_one_line(traced: Path, tmp_path: Path) -> None:
    whole, rng = store_path(traced).read_bytes(), random.Random(11)
    refusals = []
    for number in range(250):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 4, 40))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if number % 3 == 0:
            start = rng.randrange(len(damaged))
            damaged[start : start + 4096] = bytes(min(4096, len(damaged) - start))
        if number % 5 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        path = tmp_path / f"{number}.db"
        path.write_bytes(damaged)
        try:
            read_all(path)
        except StoreError as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 250
    assert not any("\n" in refusal for refusal in refusals)


def test_damaged_file_is_set_aside_and_rebuilt(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, rng = store_path(home), random.Random(4)
    whole = path.read_bytes()
    for number in range(12):
        damaged = bytearray(whole)
        start = rng.randrange(0, len(damaged) - 4096) if number else 0
        damaged[start : start + 4096] = rng.randbytes(4096)
        path.write_bytes(damaged)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        before = len(files_set_aside(path))
        caplog.clear()
        trace(home, "dora")
        assert "dora" in {line.user_id for line in read_all(path)}
        assert len(files_set_aside(path)) - before == len(warnings_of(caplog)) <= 1
    asides = files_set_aside(path)
    assert len(asides) >= 6
    assert forget_user(home, "dora") >= 1
    assert files_set_aside(path) == []


def test_foreign_file_is_set_aside_whole(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = store_path(home)
    path.write_text("my notes")
    trace(home, "dora")
    assert [file.read_text() for file in files_set_aside(path)] == ["my notes"]
    assert len(warnings_of(caplog)) == 1


def test_newer_file_switches_tracing_off(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(sqlite3.connect(store_path(home))) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with open_tracer("local", home=home) as tracer, span("ask", query="x"):
        assert tracer is None
    assert files_set_aside(store_path(home)) == []
    (warning,) = warnings_of(caplog)
    assert "tracing is off" in warning
    assert "upgrade personaagent" in warning


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/nowhere/x")])
def test_file_that_cannot_be_opened_switches_tracing_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any
) -> None:
    make(store_path(tmp_path))
    with open_tracer("local", home=tmp_path) as tracer, span("ask", query="x"):
        assert tracer is None
    assert len(warnings_of(caplog)) == 1


def test_home_that_is_a_file_switches_tracing_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "home"
    home.write_text("")
    with open_tracer("local", home=home) as tracer, span("ask", query="x"):
        assert tracer is None
    assert len(warnings_of(caplog)) == 1


def test_full_disk_does_not_stop_the_traced_program(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_tracer("local", home=home) as tracer:
        assert tracer is not None
        store = tracer.client.server
        assert store is not None
        writer = tracer_writer(tracer)
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(20):
            with span("ask", query=f"{number}" * 50_000) as opened:
                opened.output(answer="Mint.")
    assert tracer.dropped > 0
    assert any("the run goes on without its trace" in warning for warning in warnings_of(caplog))
    assert files_set_aside(store_path(home)) == []


def tracer_writer(tracer: Any) -> sqlite3.Connection:
    (start,) = [cell.cell_contents for cell in tracer.client.server.call_start.__func__.__closure__]
    connection = start.database._writer
    assert isinstance(connection, sqlite3.Connection)
    return connection


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 31, b"y" * 4096])
def test_damaged_key_is_replaced_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "trace.key"
    path.write_bytes(content)
    key = installation_key(tmp_path)
    assert len(key) == 32
    assert installation_key(tmp_path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.read_bytes() for file in files_set_aside(path)] == [content]
    assert len(warnings_of(caplog)) == 1


def test_folder_in_place_of_the_key_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "trace.key").mkdir()
    trace(tmp_path, "ana")
    assert [line.user_id for line in read_all(store_path(tmp_path))] == ["ana"]


def test_files_that_others_could_read_become_private(home: Path) -> None:
    for name in ("traces.db", "trace.key"):
        (home / name).chmod(0o644)
    trace(home, "ana")
    assert {stat.S_IMODE((home / name).stat().st_mode) for name in ("traces.db", "trace.key")} == {0o600}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE calls SET summary = '{' WHERE user_id = 'ben'",
        "UPDATE calls SET summary = '[1]' WHERE user_id = 'ben'",
        "UPDATE calls SET summary = CAST(x'7b22ff227d' AS TEXT) WHERE user_id = 'ben'",
        "UPDATE calls SET started_at = 9e18 WHERE user_id = 'ben'",
        "UPDATE calls SET started_at = 'noon' WHERE user_id = 'ben'",
        "UPDATE calls SET ended_at = 'noon' WHERE user_id = 'ben'",
        "UPDATE calls SET op = 999 WHERE user_id = 'ben'",
        "UPDATE calls SET trace_id = NULL WHERE user_id = 'ben'",
        "UPDATE payloads SET inputs = '[[' WHERE seq = BEN",
        "UPDATE payloads SET inputs = CAST(x'01ff01' AS TEXT) WHERE seq = BEN",
        "UPDATE payloads SET output = x'ff00' WHERE seq = BEN",
        "UPDATE payloads SET attributes = '3' WHERE seq = BEN",
        "DELETE FROM blobs WHERE id IN (SELECT blob FROM blob_uses WHERE seq = BEN)",
    ],
)
def test_damaged_row_is_shown_as_damaged_beside_the_others(home: Path, statement: str) -> None:
    change(home, statement.replace("BEN", "(SELECT seq FROM calls WHERE user_id = 'ben')"))
    lines = read_all(store_path(home))
    assert len(lines) == 3
    # Lists do not read inputs and outputs.
    assert {"success"} <= {line.status for line in lines} <= {"success", "damaged"}
    store = TraceStore(store_path(home))
    exported = [reader.call_line(call).status for call in reader.export_calls(store)]
    store.close()
    assert sorted(exported) == ["damaged", "success", "success"]
    # The next run is not stopped either.
    trace(home, "dora")
    assert len(read_all(store_path(home))) == 4


def test_odd_row_of_another_program_is_read(home: Path) -> None:
    store = TraceStore(store_path(home))
    end = {"usage": {"n": {"requests": 1}}}
    odd = {"usage": {"m": [1], "n": {"requests": "many", "total_tokens": None}}, "cost": {"usd": "dear"}}
    call = {"project_id": LOCAL_PROJECT, "id": "odd", "trace_id": "odd", "op_name": "op", "started_at": 1.0}
    store.call_start({**call, "attributes": {"user_id": ["x", "\ud83d"]}})
    store.call_end({**call, "ended_at": 2.0, "summary": end, "output": [1]})
    store.close()
    change(home, "UPDATE calls SET summary = ? WHERE id = 'odd'", json.dumps(odd))
    assert len(read_all(store_path(home))) == 4


def test_calls_that_are_their_own_ancestors_are_shown(home: Path) -> None:
    change(home, "UPDATE calls SET parent_id = id, trace_id = 'loop'")
    store = TraceStore(store_path(home))
    assert reader.show_trace(store, "loop").line.trace_id == "loop"
    store.close()


def test_very_deep_trace_is_shown(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "traces.db")
    for number in range(1500):
        parent = f"{number - 1}" if number else None
        call = {"project_id": LOCAL_PROJECT, "id": f"{number}", "trace_id": "0", "op_name": "op"}
        store.call_start({**call, "parent_id": parent, "started_at": float(number)})
    store.close()
    assert len(read_all(tmp_path / "traces.db")) == 1


def test_odd_values_are_stored(tmp_path: Path) -> None:
    class Odd(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError("changed during iteration")

    class OddKey:
        def __str__(self) -> str:
            raise ValueError("no text")

    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    cycle: list[Any] = []
    cycle.extend([cycle, cycle, cycle])
    values = [
        Odd(a=1),
        {OddKey(): 1},
        cycle,
        "half \ud83d",
        {"\ud83d": "\x00"},
        b"\xff",
        10**400,
        float("nan"),
    ]
    with open_tracer("local", home=tmp_path) as tracer:
        for value in values:
            with about(user_id="a\ud83d"), span("probe", value=value) as opened:
                opened.output(result=value)
        with pytest.raises(OddError), span("probe"):
            raise OddError
    assert tracer is not None
    assert tracer.dropped == 0
    assert len(read_all(store_path(tmp_path))) == len(values) + 1


def test_cycle_ends_at_once() -> None:
    cycle: list[Any] = []
    cycle.extend([cycle] * 5)
    assert ContentPolicy(content="full", key=b"k").clean(cycle) == ["<list>"] * 5


def test_warnings_are_below_the_programs_logger(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    store_path(home).write_bytes(b"garbage" * 1000)
    with caplog.at_level(logging.DEBUG):
        trace(home, "ana")
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in warnings] == ["personaagent.program.tracing"]
