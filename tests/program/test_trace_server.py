"""Tests of the HTTP server and of the API routes that Weave's client calls less often."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from program.errors import ConfigError
from program.tracing.server.http_server import TraceServer
from program.tracing.server.query import limit_and_offset
from program.tracing.server.routes import MAX_BODY, handle
from program.tracing.server.trace_store import TraceStore

PROJECT = "local/test"
KEY = "k" * 40
AUTHORIZED = f"Authorization: Bearer {KEY}\r\n"
REFUSED = b"HTTP/1.1 403"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    opened = TraceStore(tmp_path / "t.db")
    yield opened
    opened.close()


@contextlib.contextmanager
def serving(store: TraceStore) -> Iterator[TraceServer]:
    with TraceServer(store, key=KEY) as opened:
        thread = threading.Thread(target=opened.serve_forever, args=(0.01,))
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


@pytest.fixture
def server(store: TraceStore) -> Iterator[TraceServer]:
    with serving(store) as opened:
        yield opened


def connect(server: TraceServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.server_address[1])), timeout=10)


def talk(server: TraceServer, request: str, *, end: bool = False) -> bytes:
    """Send raw bytes and return what comes back first; with ``end``, say that no more will come."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request.encode("latin-1"))
            if end:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)
    return b""


def send(server: TraceServer, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def post(store: TraceStore, path: str, body: Any, method: str = "POST") -> tuple[int, Any]:
    response = store.handle(method, path, {"content-type": "application/json"}, json.dumps(body).encode())
    return response.status, json.loads(response.body)


def call(id_: str, **fields: Any) -> dict[str, Any]:
    record = {"project_id": PROJECT, "id": id_, "trace_id": id_, "op_name": "op", "started_at": 1.0}
    return {**record, "ended_at": 2.0, "summary": {}, **fields}


def write(store: TraceStore, id_: str, **fields: Any) -> None:
    store.call_start(call(id_, **fields))
    store.call_end(call(id_, **fields))


class TestHttpServer:
    @pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "example.org", ""])
    def test_host_must_be_loopback(self, store: TraceStore, host: str) -> None:
        with pytest.raises(ConfigError, match="`host` must be a loopback address"):
            TraceServer(store, host=host)

    def test_port_in_use_is_reported(self, store: TraceStore, server: TraceServer) -> None:
        port = server.server_address[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .*; try another port"):
            TraceServer(store, port=int(port))

    def test_key_is_random_by_default(self, store: TraceStore) -> None:
        with TraceServer(store) as first, TraceServer(store) as second:
            assert first.key != second.key
            assert len(first.key) == 40
            assert first.page_address == f"{first.address}/#key={first.key}"

    def test_empty_page_needs_no_key_and_forbids_framing(self, server: TraceServer) -> None:
        status, headers, body = send(server, "GET", "/", {})
        assert status == 200
        assert b'<script type="application/json" id="data">null</script>' in body
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"connect-src 'self'" in body

    def test_basic_authentication_uses_the_password(self, server: TraceServer) -> None:
        for password, status in ((KEY, 200), ("wrong", 401), (KEY[:-1], 401)):
            token = base64.b64encode(f"api:{password}".encode()).decode()
            assert send(server, "GET", "/view/users", {"Authorization": f"Basic {token}"})[0] == status

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Content-Length": "many"}, 411),
            ({"Content-Length": "-1"}, 411),
            ({"Transfer-Encoding": "chunked"}, 411),
            ({"Content-Length": str(MAX_BODY + 1)}, 413),
            ({"Host": "traces.evil.example"}, 403),
            ({"Host": "localhost:80"}, 401),
            ({"Host": "[::1]"}, 401),
        ],
    )
    def test_invalid_request_is_rejected_and_the_connection_closed(
        self, server: TraceServer, headers: dict[str, str], status: int
    ) -> None:
        answer, sent, body = send(server, "POST", "/call/read", headers)
        assert answer == status
        assert "reason" in json.loads(body)
        assert (sent.get("Connection") == "close") == (status != 401)

    @pytest.mark.parametrize("host", ["[", "[::1", "]", "a[b]", "", "//", "localhost.evil", "\xff"])
    def test_malformed_host_is_refused(self, server: TraceServer, host: str) -> None:
        assert talk(server, f"GET /view/users HTTP/1.1\r\nHost: {host}\r\n{AUTHORIZED}\r\n")[:12] == REFUSED

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            ("GET http://[ HTTP/1.1\r\nHost: localhost\r\n", b"400"),
            ("GET /view/users HTTP/1.1\r\n", b"403"),
            ("GET /view/users HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", b"403"),
            (
                "POST /call/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
                b"400",
            ),
            (f"POST /call/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: {'9' * 5000}\r\n", b"413"),
            ("POST /call/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: \xb2\r\n", b"411"),
            ("POST /server_info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n", b"413"),
            ("\x16\x03\x01 garbage\r\n", b"400"),
            ("GET / HTTP/9.9\r\nHost: localhost\r\n", b"505"),
            (f"GET /{'a' * 70000} HTTP/1.1\r\n", b"414"),
            ("GET / HTTP/1.1\r\n" + "X: y\r\n" * 200, b"431"),
        ],
    )
    def test_malformed_request_is_refused_in_silence(
        self, server: TraceServer, capfd: pytest.CaptureFixture[str], head: str, status: bytes
    ) -> None:
        answer = talk(server, f"{head}{AUTHORIZED}\r\n")
        assert status in answer
        assert send(server, "GET", "/", {})[0] == 200
        assert capfd.readouterr().err == ""

    def test_body_is_not_read_without_the_key(self, server: TraceServer) -> None:
        head = f"POST /call/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BODY}\r\n\r\n"
        # The answer comes although not one byte of the body was sent.
        assert b" 401 " in talk(server, head)[:20]

    def test_client_that_waits_for_the_key_to_be_checked_may_go_on(self, server: TraceServer) -> None:
        head = "POST /call/read HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
        assert b" 401 " in talk(server, f"{head}\r\n")[:20]
        assert talk(server, f"{head}{AUTHORIZED}Connection: close\r\n\r\n{{}}").startswith(b"HTTP/1.1 100")

    def test_cut_off_body_is_refused(self, server: TraceServer) -> None:
        head = f"POST /call/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n{AUTHORIZED}\r\n"
        assert b" 400 " in talk(server, head + "{}", end=True)[:20]

    def test_deeply_nested_body_is_refused(self, server: TraceServer) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        assert send(server, "POST", "/call/read", headers, b"[" * 100_000)[0] == 400

    def test_slow_client_is_disconnected(self, server: TraceServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("program.tracing.server.http_server.READ_SECONDS", 0.2)
        with connect(server) as connection:
            begin = time.monotonic()
            connection.sendall(b"GET / HT")
            with contextlib.suppress(ConnectionError):
                assert connection.recv(100) == b""
            assert time.monotonic() - begin < 30

    def test_too_many_connections_are_refused_and_the_next_one_is_served(
        self, store: TraceStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("program.tracing.server.http_server.MAX_THREADS", 3)
        with serving(store) as server:
            waiting = [connect(server) for _ in range(3)]
            for connection in waiting:
                connection.sendall(b"GET / HTTP/1.1\r\n")
            with connect(server) as refused:
                assert refused.recv(100).startswith(b"HTTP/1.1 503")
            for connection in waiting:
                connection.close()
            end = time.monotonic() + 60
            while (status := send(server, "GET", "/", {})[0]) == 503 and time.monotonic() < end:
                time.sleep(0.01)
            assert status == 200

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.binary(max_size=200))
    def test_any_bytes_leave_the_server_running(self, server: TraceServer, data: bytes) -> None:
        talk(server, data.decode("latin-1"), end=True)
        assert send(server, "GET", "/", {})[0] == 200

    def test_unsupported_method_is_rejected(self, server: TraceServer) -> None:
        assert send(server, "DELETE", "/call/read", {"Authorization": f"Bearer {KEY}"})[0] == 501


class TestRoutes:
    def test_unknown_route_names_itself(self, store: TraceStore) -> None:
        status, body = post(store, "/traces/nothing/here", {})
        assert (status, body["reason"]) == (404, "POST /nothing/here is not part of the local trace store")

    def test_cloud_prefix_is_optional(self, store: TraceStore) -> None:
        write(store, "a")
        body = {"project_id": PROJECT, "id": "a"}
        assert post(store, "/traces/call/read", body) == post(store, "/call/read", body)
        assert post(store, "/call/read", {**body, "id": "b"}) == (200, {"call": None})

    def test_body_over_the_limit_is_rejected(
        self, store: TraceStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("program.tracing.server.routes.MAX_BODY", 10)
        status, body = post(store, "/call/start", {"start": {}})
        assert (status, body["reason"]) == (413, "the body has 13 bytes; the limit is 10")

    def test_failing_database_becomes_status_500_without_user_text(
        self, store: TraceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: Any) -> None:
            raise sqlite3.OperationalError("disk full while writing my secret")

        monkeypatch.setattr("program.tracing.server.calls.write_start", fail)
        status, body = post(store, "/call/start", {"start": call("a")})
        assert (status, body["reason"]) == (500, "the trace store failed: OperationalError")
        assert "secret" not in caplog.text
        assert store.count(PROJECT) == 0

    def test_failed_batch_stores_nothing(self, store: TraceStore) -> None:
        broken = {key: value for key, value in call("b").items() if key != "started_at"}
        status, body = post(
            store,
            "/call/upsert_batch",
            {
                "batch": [
                    {"mode": "start", "req": {"start": call("a")}},
                    {"mode": "start", "req": {"start": broken}},
                ]
            },
        )
        assert (status, "`started_at`" in body["reason"]) == (400, True)
        assert store.count(PROJECT) == 0

    def test_complete_calls_arrive_in_one_batch(self, store: TraceStore) -> None:
        batch = {"batch": [call("a", output=1), call("b", output=2)]}
        assert post(store, "/v2/local/test/calls/complete", batch) == (200, {})
        assert [record["output"] for record in store.calls(PROJECT)] == [1, 2]

    def test_display_name_is_set_and_removed(self, store: TraceStore) -> None:
        write(store, "a")
        for name, stored in (("my name", "my name"), ("", None)):
            body = {"project_id": PROJECT, "call_id": "a", "display_name": name}
            assert post(store, "/call/update", body) == (200, {})
            assert store.calls(PROJECT)[0]["display_name"] == stored

    @pytest.mark.parametrize(
        ("query", "data"),
        [
            (
                "query { viewer { username } }",
                {"viewer": {"username": "local", "defaultEntity": {"name": "local"}}},
            ),
            ("query { project(name: $name) { id } }", {"project": {"name": "n"}}),
        ],
    )
    def test_graphql_answers_what_weave_init_asks(self, store: TraceStore, query: str, data: Any) -> None:
        body = {"query": query, "variables": {"name": "n"}}
        assert post(store, "/graphql", body) == (200, {"data": data})

    def test_other_graphql_is_rejected(self, store: TraceStore) -> None:
        assert post(store, "/graphql", {"query": "mutation { deleteAll }"})[0] == 400

    def test_purging_needs_a_query(self, store: TraceStore) -> None:
        for kind, word in (("cost", "costs"), ("feedback", "feedback")):
            status, body = post(store, f"/{kind}/purge", {"project_id": PROJECT})
            assert (status, body["reason"]) == (400, f"`query` is required to purge {word}")

    def test_feedback_with_the_same_id_is_stored_once(self, store: TraceStore) -> None:
        note = {
            "project_id": PROJECT,
            "weave_ref": "weave:///local/test/call/a",
            "feedback_type": "n",
            "id": "f",
        }
        status, body = post(store, "/feedback/batch/create", {"batch": [note, note]})
        assert (status, [row["id"] for row in body["res"]]) == (200, ["f", "f"])
        assert post(store, "/feedback/query", {"project_id": PROJECT})[1]["total_count"] == 1

    def test_price_is_unknown_without_costs(self, store: TraceStore) -> None:
        write(store, "a", summary={"usage": {"m": {"prompt_tokens": 10, "completion_tokens": 1}}})
        costs = store.calls(PROJECT, include_costs=True)[0]["summary"]["weave"]["costs"]["m"]
        assert costs["prompt_tokens_total_cost"] is None
        assert costs["prompt_tokens"] == 10

    def test_both_names_of_token_counts_are_priced(self, store: TraceStore) -> None:
        price = {"m": {"prompt_token_cost": 2.0, "completion_token_cost": 3.0}}
        assert post(store, "/cost/create", {"project_id": PROJECT, "costs": price})[0] == 200
        write(store, "a", summary={"usage": {"m": {"input_tokens": 10, "output_tokens": 4}}})
        costs = store.calls(PROJECT, include_costs=True)[0]["summary"]["weave"]["costs"]["m"]
        assert (costs["prompt_tokens_total_cost"], costs["completion_tokens_total_cost"]) == (20.0, 12.0)

    def test_storage_sizes_are_characters_of_call_and_trace(self, store: TraceStore) -> None:
        write(store, "a", inputs={"q": "12"}, output="x")
        write(store, "b", trace_id="a", parent_id="a", inputs={"q": "1234"}, output="x")
        rows = store.calls(PROJECT, include_storage_size=True, include_total_storage_size=True)
        # {} for summary and attributes, {"q":"12"} or {"q":"1234"}, and "x" with its quotes.
        assert [row["storage_size_bytes"] for row in rows] == [2 + 2 + 10 + 3, 2 + 2 + 12 + 3]
        assert {row["total_storage_size_bytes"] for row in rows} == {17 + 19}

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(["GET", "POST", "PUT", "PATCH"]), st.text(max_size=40), st.binary(max_size=40))
    def test_handle_never_raises(self, store: TraceStore, method: str, path: str, body: bytes) -> None:
        response = handle(store.database, method, f"/{path}", {}, body)
        assert response.status in (200, 400, 404)


class TestFiles:
    FORM = (
        b'--x\r\nContent-Disposition: form-data; name="project_id"\r\n\r\nlocal/test\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n\x00\xff\x01bytes\r\n'
        b"--x--\r\n"
    )

    def test_file_is_read_back_byte_by_byte(self, store: TraceStore) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        digests = {store.handle("POST", "/file/create", headers, self.FORM).body for _ in range(2)}
        assert len(digests) == 1
        digest = json.loads(digests.pop())["digest"]
        body = json.dumps({"project_id": PROJECT, "digest": digest}).encode()
        response = store.handle("POST", "/file/content", {}, body)
        assert (response.status, response.content_type) == (200, "application/octet-stream")
        assert response.body == b"\x00\xff\x01bytes"

    def test_form_without_a_file_is_rejected(self, store: TraceStore) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = store.handle("POST", "/file/create", headers, self.FORM.replace(b'"file"', b'"other"'))
        assert response.status == 400
        assert b"`project_id` and `file`" in response.body

    def test_missing_file_is_not_found(self, store: TraceStore) -> None:
        assert post(store, "/file/content", {"project_id": PROJECT, "digest": "zz"})[0] == 404


class TestObjects:
    def publish(self, store: TraceStore, name: str, text: str) -> str:
        obj = {"project_id": PROJECT, "object_id": name, "val": {"_type": "Prompt", "text": text}}
        return str(post(store, "/obj/create", {"obj": obj})[1]["digest"])

    def query(self, store: TraceStore, **request: Any) -> list[tuple[str, int]]:
        status, body = post(store, "/objs/query", {"project_id": PROJECT, **request})
        assert status == 200, body
        return [(obj["object_id"], obj["version_index"]) for obj in body["objs"]]

    @pytest.fixture(autouse=True)
    def three_versions(self, store: TraceStore) -> None:
        for name, text in (("a", "one"), ("b", "one"), ("a", "two")):
            self.publish(store, name, text)

    @pytest.mark.parametrize(
        ("request_", "versions"),
        [
            ({}, [("a", 0), ("b", 0), ("a", 1)]),
            ({"filter": {"latest_only": True}}, [("b", 0), ("a", 1)]),
            ({"filter": {"object_ids": ["b"], "is_op": None}}, [("b", 0)]),
            ({"filter": {"is_op": True}}, []),
            ({"filter": {"aliases": ["latest"]}}, [("b", 0), ("a", 1)]),
            ({"limit": 1, "offset": 1}, [("b", 0)]),
            ({"sort_by": [{"field": "object_id", "direction": "desc"}]}, [("b", 0), ("a", 0), ("a", 1)]),
        ],
    )
    def test_versions_are_filtered_sorted_and_paged(
        self, store: TraceStore, request_: dict[str, Any], versions: list[tuple[str, int]]
    ) -> None:
        assert self.query(store, **request_) == versions

    @pytest.mark.parametrize(
        "request_", [{"filter": {"colour": "red"}}, {"sort_by": [{"field": "val", "direction": "asc"}]}]
    )
    def test_unknown_filter_or_sort_field_is_rejected(self, store: TraceStore, request_: Any) -> None:
        assert post(store, "/objs/query", {"project_id": PROJECT, **request_})[0] == 400

    def test_alias_moves_and_tag_stays(self, store: TraceStore) -> None:
        for version in ("v0", "v1"):
            body = {"project_id": PROJECT, "aliases": ["best"], "digest": version}
            assert post(store, "/objs/a/aliases", body, "PUT")[0] == 200
            body = {"project_id": PROJECT, "tags": ["good"]}
            assert post(store, f"/objs/a/versions/{version}/tags", body, "PUT")[0] == 200
        assert self.query(store, filter={"aliases": ["best"]}) == [("a", 1)]
        assert self.query(store, filter={"tags": ["good"]}) == [("a", 0), ("a", 1)]
        body = {"project_id": PROJECT, "tags": ["good"]}
        assert post(store, "/objs/a/versions/v0/tags/remove", body)[0] == 200
        assert self.query(store, filter={"tags": ["good"]}) == [("a", 1)]
        listed = [
            store.handle("GET", f"/{kind}?project_id={PROJECT}", {}, b"").body for kind in ("tags", "aliases")
        ]
        assert [json.loads(body) for body in listed] == [{"tags": ["good"]}, {"aliases": ["best"]}]

    def test_deleting_without_digests_deletes_all_versions(self, store: TraceStore) -> None:
        body = {"project_id": PROJECT, "object_id": "a"}
        assert post(store, "/obj/delete", body) == (200, {"num_deleted": 2})
        assert post(store, "/obj/delete", body)[0] == 404
        assert self.query(store) == [("b", 0)]


class TestReferences:
    def test_reference_reaches_into_objects_and_lists(self, store: TraceStore) -> None:
        inner = {"project_id": PROJECT, "object_id": "in", "val": {"items": ["x", {"name with /": 7}]}}
        digest = post(store, "/obj/create", {"obj": inner})[1]["digest"]
        ref = f"weave:///{PROJECT}/object/in:{digest}"
        outer = {"project_id": PROJECT, "object_id": "out", "val": {"link": ref}}
        assert post(store, "/obj/create", {"obj": outer})[0] == 200
        out = f"weave:///{PROJECT}/object/out:latest"
        assert store.value(f"{out}/key/link") == ref
        assert store.value(f"{out}/key/link/key/items/index/0") == "x"
        assert store.value(f"{out}/key/link/key/items/index/1/key/name%20with%20%2F") == 7

    @pytest.mark.parametrize(
        "ref",
        [
            "",
            "weave:///",
            "weave:///a/b",
            f"weave:///{PROJECT}/object/none:v0",
            "weave:///a/b/object/x:v0/key",
        ],
    )
    def test_reference_to_nothing_is_none(self, store: TraceStore, ref: str) -> None:
        assert store.value(ref) is None

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.text(alphabet="ab/:%0", max_size=30))
    def test_any_text_is_a_reference_to_nothing(self, store: TraceStore, text: str) -> None:
        assert store.value(f"weave:///{text}") is None

    def test_expanded_columns_hold_the_reference_and_its_value(self, store: TraceStore) -> None:
        obj = {"project_id": PROJECT, "object_id": "persona", "val": {"text": "You are A"}}
        digest = post(store, "/obj/create", {"obj": obj})[1]["digest"]
        ref = f"weave:///{PROJECT}/object/persona:{digest}"
        write(store, "a", inputs={"persona": ref, "plain": "text"})
        columns = ["inputs.persona", "inputs.plain", "inputs.missing", "output.x"]
        (row,) = store.calls(PROJECT, expand_columns=columns)
        assert row["inputs"] == {"persona": {"_ref": ref, "_val": {"text": "You are A"}}, "plain": "text"}
        (row,) = store.calls(PROJECT, expand_columns=columns, return_expanded_column_values=False)
        assert row["inputs"]["persona"] == ref


class TestTables:
    def test_table_of_stored_rows_equals_the_table_of_their_contents(self, store: TraceStore) -> None:
        rows = {"project_id": PROJECT, "rows": [{"n": 1}, {"n": 2}, {"n": 1}]}
        table = post(store, "/table/create", {"table": rows})[1]
        body = {"project_id": PROJECT, "row_digests": table["row_digests"]}
        assert post(store, "/table/create_from_digests", body) == (200, {"digest": table["digest"]})
        missing = {**body, "row_digests": [*table["row_digests"], "zz"]}
        status, answer = post(store, "/table/create_from_digests", missing)
        assert (status, answer["reason"]) == (404, "1 of 4 `row_digests` are not stored")

    def test_rows_are_sorted_and_filtered_and_keep_their_index(self, store: TraceStore) -> None:
        rows = {"project_id": PROJECT, "rows": [{"n": n} for n in (2, 3, 1)]}
        table = post(store, "/table/create", {"table": rows})[1]
        request = {"project_id": PROJECT, "digest": table["digest"]}
        down = {**request, "sort_by": [{"field": "n", "direction": "desc"}], "limit": 2}
        body = post(store, "/table/query", down)[1]
        assert [(row["val"]["n"], row["original_index"]) for row in body["rows"]] == [(3, 1), (2, 0)]
        one = {**request, "filter": {"row_digests": table["row_digests"][2:]}}
        assert [row["val"] for row in post(store, "/table/query", one)[1]["rows"]] == [{"n": 1}]
        batch = {"project_id": PROJECT, "digests": [table["digest"]]}
        assert post(store, "/table/query_stats_batch", batch)[1]["tables"][0]["count"] == 3

    def test_missing_table_is_not_found(self, store: TraceStore) -> None:
        for route in ("query", "query_stats"):
            assert post(store, f"/table/{route}", {"project_id": PROJECT, "digest": "zz"})[0] == 404

    def test_unknown_update_is_rejected(self, store: TraceStore) -> None:
        updates = [{"swap": {"index": 0}}]
        body = {"project_id": PROJECT, "base_digest": "zz", "updates": updates}
        assert post(store, "/table/update", body) == (400, {"reason": "unknown table update 'swap'"})


@pytest.mark.parametrize(
    ("request_", "page"),
    [
        ({}, (-1, 0)),
        ({"limit": 0}, (0, 0)),
        ({"limit": "7", "offset": None}, (7, 0)),
        ({"offset": 3}, (-1, 3)),
    ],
)
def test_missing_limit_means_all_rows(request_: dict[str, Any], page: tuple[int, int]) -> None:
    assert limit_and_offset(request_) == page
