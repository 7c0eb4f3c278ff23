"""Tests of the trace file: order of arrival, pages, sharing, deletion, versions."""

from __future__ import annotations

import json
import random
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from program.errors import StoreError
from program.tracing.server.schema import MIGRATIONS, VERSION
from program.tracing.server.trace_store import TraceStore

PROJECT = "local/test"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    opened = TraceStore(tmp_path / "traces" / "t.db")
    yield opened
    opened.close()


def start(id_: str, parent: str | None = None, at: float = 1_000.0, **fields: Any) -> dict[str, Any]:
    return {
        "project_id": PROJECT,
        "id": id_,
        "trace_id": fields.pop("trace_id", parent or id_),
        "parent_id": parent,
        "op_name": fields.pop("op_name", f"weave:///{PROJECT}/op/personaagent.ask:d1"),
        "started_at": at,
        "attributes": fields.pop("attributes", {}),
        "inputs": fields.pop("inputs", {}),
        **fields,
    }


def end(id_: str, at: float = 1_001.0, **fields: Any) -> dict[str, Any]:
    return {"project_id": PROJECT, "id": id_, "ended_at": at, "summary": {}, "output": None, **fields}


def post(store: TraceStore, path: str, body: Any) -> tuple[int, Any]:
    answer = store.handle("POST", path, {"content-type": "application/json"}, json.dumps(body).encode())
    return answer.status, json.loads(answer.body)


def count(store: TraceStore, table: str) -> int:
    with store.database.reading() as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def file_bytes(store: TraceStore) -> bytes:
    return b"".join(file.read_bytes() for file in store.path.parent.iterdir())


@pytest.mark.parametrize("order", ["start first", "end first", "twice each"])
def test_start_and_end_of_a_call_arrive_in_any_order(store: TraceStore, order: str) -> None:
    halves: list[Any] = [
        lambda: store.call_start(start("a", inputs={"q": 1})),
        lambda: store.call_end(end("a", output="x")),
    ]
    for write in {"start first": halves, "end first": halves[::-1], "twice each": halves * 2}[order]:
        write()
    (call,) = store.calls(PROJECT)
    assert (call["inputs"], call["output"], call["summary"]["weave"]["latency_ms"]) == ({"q": 1}, "x", 1000)


def test_call_without_start_is_hidden_and_call_without_end_is_running(store: TraceStore) -> None:
    store.call_end(end("a"))
    store.call_start(start("b"))
    (call,) = store.calls(PROJECT)
    assert (call["id"], call["ended_at"], call["summary"]["weave"]["status"]) == ("b", None, "running")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "success"),
        ({"exception": "{}"}, "error"),
        ({"summary": {"status_counts": {"success": 1, "error": 2}}}, "descendant_error"),
    ],
)
def test_status_distinguishes_own_failure_from_one_below(
    store: TraceStore, fields: dict[str, Any], status: str
) -> None:
    store.call_start(start("a"))
    store.call_end(end("a", **fields))
    assert store.calls(PROJECT)[0]["summary"]["weave"]["status"] == status


def test_pages_with_equal_times_are_complete_and_disjoint(store: TraceStore) -> None:
    for n in range(50):
        store.call_start(start(f"c{n:02}", at=1_000.0 + n % 3))
    pages = [store.calls(PROJECT, limit=7, offset=offset) for offset in range(0, 56, 7)]
    ids = [call["id"] for page in pages for call in page]
    assert sorted(ids) == [f"c{n:02}" for n in range(50)]
    assert ids == [call["id"] for call in store.calls(PROJECT)]


def test_sorting_follows_payload_fields_in_both_directions(store: TraceStore) -> None:
    scores = [3, 1, 2]
    for n, score in enumerate(scores):
        store.call_start(start(f"c{n}"))
        store.call_end(end(f"c{n}", output={"score": score}))
    up = [{"field": "output.score", "direction": "asc"}]
    down = [{"field": "output.score", "direction": "desc"}]
    assert [c["output"]["score"] for c in store.calls(PROJECT, sort_by=up)] == [1, 2, 3]
    assert [c["output"]["score"] for c in store.calls(PROJECT, sort_by=down)] == [3, 2, 1]


@pytest.mark.parametrize(
    ("filter_", "ids"),
    [
        ({"trace_roots_only": True}, ["a", "x"]),
        ({"parent_ids": ["a"]}, ["b"]),
        ({"trace_ids": ["a"], "call_ids": ["b", "x"]}, ["b"]),
        ({"op_names": [f"weave:///{PROJECT}/op/personaagent.ask:*"]}, ["a", "x"]),
        # An underscore is a letter here, not a wildcard.
        ({"op_names": [f"weave:///{PROJECT}/op/textual_loss:*"]}, []),
        ({"op_names": [f"weave:///{PROJECT}/op/textualXloss:d1"]}, ["b"]),
        ({"input_refs": [f"weave:///{PROJECT}/object/persona-u1:*"]}, ["b"]),
        ({"output_refs": [f"weave:///{PROJECT}/object/persona-u1:d9"]}, []),
        ({"wb_run_ids": None}, ["a", "b", "x"]),
    ],
)
def test_all_filters_must_hold(store: TraceStore, filter_: dict[str, Any], ids: list[str]) -> None:
    store.call_start(start("a", at=1.0))
    store.call_start(
        start(
            "b",
            "a",
            at=2.0,
            op_name=f"weave:///{PROJECT}/op/textualXloss:d1",
            inputs={"persona": f"weave:///{PROJECT}/object/persona-u1:d9"},
        )
    )
    store.call_start(start("x", at=3.0))
    assert [call["id"] for call in store.calls(PROJECT, filter=filter_)] == ids
    assert store.count(PROJECT, filter=filter_) == len(ids)


def test_unknown_filter_is_rejected(store: TraceStore) -> None:
    assert post(store, "/calls/query_stats", {"project_id": PROJECT, "filter": {"colour": "red"}})[0] == 400


def test_columns_select_the_payloads_to_read(store: TraceStore) -> None:
    store.call_start(start("a", inputs={"q": 1}, attributes={"user_id": "u"}))
    (call,) = store.calls(PROJECT, columns=["inputs.q"])
    assert (call["inputs"], call["attributes"], call["output"]) == ({"q": 1}, {}, None)


def test_projects_do_not_see_each_other(store: TraceStore) -> None:
    store.call_start(start("a"))
    assert store.calls("local/other") == []
    assert store.count("local/other") == 0
    body = {"project_id": "local/other", "call_ids": ["a"]}
    assert post(store, "/calls/delete", body) == (200, {"num_deleted": 0})


def test_repeated_text_is_stored_once(store: TraceStore) -> None:
    persona = "You know this user well. " * 40
    for n in range(20):
        store.call_start(start(f"c{n}", inputs={"messages": [{"role": "system", "content": persona}]}))
    assert count(store, "blobs") == 1
    assert all(c["inputs"]["messages"][0]["content"] == persona for c in store.calls(PROJECT))


def test_deleting_a_call_deletes_its_children_and_unshared_texts(store: TraceStore) -> None:
    shared = "a long text that two traces share " * 10
    for root in ("a", "x"):
        store.call_start(start(root, inputs={"text": shared}))
        store.call_start(start(root + "1", root))
        store.call_start(start(root + "2", root + "1", trace_id=root))
    body = {"project_id": PROJECT, "call_ids": ["a"]}
    assert post(store, "/calls/delete", body) == (200, {"num_deleted": 3})
    assert [call["id"] for call in store.calls(PROJECT)] == ["x", "x1", "x2"]
    assert count(store, "blobs") == 1
    assert post(store, "/calls/delete", {**body, "call_ids": ["x"]}) == (200, {"num_deleted": 3})
    assert (count(store, "blobs"), count(store, "blob_uses"), count(store, "payloads")) == (0, 0, 0)


def test_file_holds_no_byte_of_a_forgotten_user(store: TraceStore) -> None:
    for user in ("ana", "bob"):
        secret = f"secret of {user} " * 20
        store.call_start(start(user, attributes={"user_id": user}, inputs={"q": secret}))
        store.call_start(start(f"{user}-leaf", user, inputs={"messages": [secret], "short": f"word-{user}"}))
        store.call_end(end(f"{user}-leaf", output=secret, exception=json.dumps({"message": secret})))
        ref = f"weave:///{PROJECT}/call/{user}"
        note = {"project_id": PROJECT, "weave_ref": ref, "feedback_type": "n", "payload": {"x": secret}}
        assert post(store, "/feedback/create", note)[0] == 200
        rows = {"project_id": PROJECT, "rows": [{"q": secret}, {"q": "a row of both"}]}
        table = post(store, "/table/create", {"table": rows})[1]["digest"]
        val = {"_type": "Dataset", "text": secret, "rows": f"weave:///{PROJECT}/table/{table}"}
        obj = {"project_id": PROJECT, "object_id": f"persona-{user}", "val": val}
        assert post(store, "/obj/create", {"obj": obj})[0] == 200
        tags = json.dumps({"project_id": PROJECT, "aliases": [f"best-{user}"], "digest": "latest"}).encode()
        assert store.handle("PUT", f"/objs/persona-{user}/aliases", {}, tags).status == 200
    assert b"secret of ana" in file_bytes(store)
    assert store.forget(PROJECT, ["ana"], ["persona-ana"]) == 2
    content = file_bytes(store)
    assert [
        word for word in (b"secret of ana", b"word-ana", b"persona-ana", b"best-ana") if word in content
    ] == []
    assert [call["id"] for call in store.calls(PROJECT)] == ["bob", "bob-leaf"]
    assert store.calls(PROJECT)[1]["output"] == "secret of bob " * 20
    assert count(store, "table_rows") == 2


def test_only_the_owner_can_read_the_files(store: TraceStore) -> None:
    store.call_start(start("a"))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in store.path.parent.iterdir()}
    assert modes == {name: 0o600 for name in ("t.db", "t.db-wal", "t.db-shm")}
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_newer_file_is_rejected_and_unchanged(tmp_path: Path) -> None:
    TraceStore(tmp_path / "t.db").close()
    with sqlite3.connect(tmp_path / "t.db") as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = (tmp_path / "t.db").read_bytes()
    with pytest.raises(StoreError, match="upgrade personaagent"):
        TraceStore(tmp_path / "t.db")
    assert (tmp_path / "t.db").read_bytes() == before


def test_database_of_another_program_is_rejected(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "t.db") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StoreError, match="not a trace store"):
        TraceStore(tmp_path / "t.db")


def test_file_that_is_not_a_database_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "t.db").write_text("hello " * 1000)
    with pytest.raises(StoreError, match=r"t\.db"):
        TraceStore(tmp_path / "t.db")


@pytest.mark.parametrize("content", ["hello " * 1000, None])
def test_rejected_file_leaves_no_connection_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def recording_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    if content is not None:
        (tmp_path / "t.db").write_text(content)
    else:
        db = connect(tmp_path / "t.db")
        db.execute("CREATE TABLE theirs (x)")
        db.close()
    monkeypatch.setattr("program.tracing.server.database.sqlite3.connect", recording_connect)
    with pytest.raises(StoreError):
        TraceStore(tmp_path / "t.db")
    assert len(opened) == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_failed_migration_keeps_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TraceStore(tmp_path / "t.db")
    store.call_start(start("a"))
    store.close()
    broken = (*MIGRATIONS, ("CREATE TABLE added (x)", "this is not SQL"))
    monkeypatch.setattr("program.tracing.server.schema.MIGRATIONS", broken)
    monkeypatch.setattr("program.tracing.server.schema.VERSION", len(broken))
    with pytest.raises(StoreError):
        TraceStore(tmp_path / "t.db")
    monkeypatch.undo()
    store = TraceStore(tmp_path / "t.db")
    assert [call["id"] for call in store.calls(PROJECT)] == ["a"]
    with store.database.reading() as db:
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'added'").fetchone() == (0,)
    store.close()


def test_two_stores_and_many_threads_write_to_one_file(store: TraceStore) -> None:
    other = TraceStore(store.path)

    def write(worker: int) -> None:
        mine = (store, other)[worker % 2]
        for n in range(25):
            mine.call_start(start(f"{worker}-{n}", inputs={"text": "the same long text " * 20}))
            mine.call_end(end(f"{worker}-{n}"))
            mine.calls(PROJECT, limit=3)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert store.count(PROJECT) == 200
    assert count(store, "blobs") == 1


def test_republished_object_becomes_the_latest_version_again(store: TraceStore) -> None:
    def publish(text: str) -> str:
        obj = {"project_id": PROJECT, "object_id": "persona", "val": {"text": text}}
        return str(post(store, "/obj/create", {"obj": obj})[1]["digest"])

    first, second = publish("one"), publish("two")
    assert publish("one") == first != second
    body = {"project_id": PROJECT, "object_id": "persona"}
    read = {v: post(store, "/obj/read", {**body, "digest": v})[1]["obj"] for v in ("v0", "v1", "latest")}
    assert [read[v]["val"]["text"] for v in ("v0", "v1", "latest")] == ["one", "two", "one"]
    assert [read[v]["is_latest"] for v in ("v0", "v1")] == [1, 0]
    assert post(store, "/obj/delete", {**body, "digests": [first]}) == (200, {"num_deleted": 1})
    status, answer = post(store, "/obj/read", {**body, "digest": "v0"})
    assert (status, bool(answer["deleted_at"])) == (404, True)
    assert post(store, "/obj/read", {**body, "digest": "latest"})[1]["obj"]["val"]["text"] == "two"


def test_table_is_updated_and_read_in_pages(store: TraceStore) -> None:
    table = post(
        store, "/table/create", {"table": {"project_id": PROJECT, "rows": [{"n": n} for n in range(5)]}}
    )
    updates = [
        {"pop": {"index": 0}},
        {"append": {"row": {"n": 9}}},
        {"insert": {"index": 0, "row": {"n": 7}}},
    ]
    body = {"project_id": PROJECT, "base_digest": table[1]["digest"], "updates": updates}
    digest = post(store, "/table/update", body)[1]["digest"]
    table = {"project_id": PROJECT, "digest": digest}
    rows = [post(store, "/table/query", {**table, "limit": 4, "offset": o})[1]["rows"] for o in (0, 4)]
    assert [row["val"]["n"] for page in rows for row in page] == [7, 1, 2, 3, 4, 9]
    assert post(store, "/table/query_stats", table) == (200, {"count": 6})
    ref = f"weave:///{PROJECT}/table/{digest}/id/{rows[0][0]['digest']}/key/n"
    assert post(store, "/refs/read_batch", {"refs": [ref, ref + "/key/x"]}) == (200, {"vals": [7, None]})
    assert post(store, "/table/update", {**body, "updates": [{"pop": {"index": 5}}]})[0] == 400


def test_costs_use_the_price_in_force_at_the_start_of_the_call(store: TraceStore) -> None:
    for price, date in ((1.0, "1970-01-01T00:00:00Z"), (5.0, "1970-01-01T01:00:00Z")):
        costs = {"m": {"prompt_token_cost": price, "completion_token_cost": 0.0, "effective_date": date}}
        assert post(store, "/cost/create", {"project_id": PROJECT, "costs": costs})[0] == 200
    for name, at in (("early", 60.0), ("late", 7200.0)):
        store.call_start(start(name, at=at))
        usage = {"m": {"prompt_tokens": 10, "completion_tokens": 1}}
        store.call_end(end(name, at + 1, summary={"usage": usage}))
    calls = store.calls(PROJECT, include_costs=True)
    assert [c["summary"]["weave"]["costs"]["m"]["prompt_tokens_total_cost"] for c in calls] == [10.0, 50.0]


def test_feedback_is_queried_in_pages_and_joined_to_calls(store: TraceStore) -> None:
    store.call_start(start("a"))
    store.call_start(start("b"))
    ref = f"weave:///{PROJECT}/call/a"
    for n in range(3):
        payload = {"output": {"score": n}}
        body = {"project_id": PROJECT, "weave_ref": ref, "feedback_type": "wandb.runnable.judge"}
        assert (
            post(store, "/feedback/create", {**body, "id": f"f{n}", "payload": payload})[1]["id"] == f"f{n}"
        )
    query = {"$expr": {"$gte": [{"$getField": "payload.output.score"}, {"$literal": 1}]}}
    page = post(store, "/feedback/query", {"project_id": PROJECT, "query": query, "limit": 1})[1]
    assert (len(page["result"]), page["total_count"]) == (1, 2)
    scored = {
        "$expr": {
            "$gt": [{"$getField": "feedback.[wandb.runnable.judge].payload.output.score"}, {"$literal": 1}]
        }
    }
    (call,) = store.calls(PROJECT, query=scored, include_feedback=True)
    assert [f["id"] for f in call["summary"]["weave"]["feedback"]] == ["f0", "f1", "f2"]
    assert post(store, "/feedback/purge", {"project_id": PROJECT, "query": query})[0] == 200
    assert post(store, "/feedback/query", {"project_id": PROJECT})[1]["total_count"] == 1


def test_open_calls_of_dead_processes_end_as_interrupted(store: TraceStore) -> None:
    store.call_start(start("a", at=1.0, attributes={"process": "dead"}))
    store.call_start(start("b", "a", at=2.0, attributes={"process": "dead"}))
    store.call_end(end("b", 5.0))
    store.call_start(start("x", attributes={"process": "alive"}))
    assert store.interrupt_dead(PROJECT, lambda process: process == "dead") == 1
    ended = {call["id"]: call["ended_at"] for call in store.calls(PROJECT)}
    assert (ended["a"], ended["x"]) == ("1970-01-01T00:00:05.000000+00:00", None)


def test_no_request_makes_the_store_raise(store: TraceStore) -> None:
    rng = random.Random(0)
    words: list[Any] = [None, 1, "x", [], {}, PROJECT, ["x"], {"project_id": PROJECT}, "weave:///a/b", -1]
    keys = [
        "project_id",
        "filter",
        "query",
        "start",
        "end",
        "obj",
        "batch",
        "digest",
        "refs",
        "limit",
        "rows",
    ]
    paths = [
        "/call/start",
        "/call/end",
        "/calls/stream_query",
        "/obj/create",
        "/obj/read",
        "/refs/read_batch",
    ]
    paths += ["/table/create", "/table/query", "/feedback/create", "/cost/create", "/file/create", "/graphql"]
    for _ in range(400):
        body = json.dumps({rng.choice(keys): rng.choice(words) for _ in range(rng.randrange(4))}).encode()
        answer = store.handle("POST", rng.choice(paths), {}, rng.choice([body, body[:-1], b"\xff\x00"]))
        assert answer.status in (200, 400, 404), answer


def test_error_messages_contain_no_user_text(store: TraceStore) -> None:
    broken = start("a", inputs={"q": "my secret"})
    del broken["trace_id"]
    status, body = post(store, "/call/start", {"start": broken})
    assert (status, "secret" in json.dumps(body), "`trace_id`" in body["reason"]) == (400, False, True)
