"""The routes of Weave's wire API, and the function that answers a request."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from program.tracing.server import call_queries, calls, feedback, objects, prices, references, tables
from program.tracing.server.codec import dumps
from program.tracing.server.database import Database
from program.tracing.server.request_errors import BadRequestError, NotFoundError

logger = logging.getLogger("personaagent.program.tracing")

MAX_BODY = 32 * 1024 * 1024
"""Largest request body, in bytes. Weave's client splits its batches at 31 MiB."""

JSON = "application/json"


class Response(NamedTuple):
    """An HTTP response."""

    status: int
    content_type: str
    body: bytes


class Request(NamedTuple):
    """A request to one route.

    Attributes:
        database: The open file.
        db: A connection, in a write transaction if the route writes.
        path: The named parts of the path, unquoted.
        body: The JSON body; for GET, the query string.
        raw: The content type and the unparsed body.
    """

    database: Database
    db: sqlite3.Connection
    path: Mapping[str, str]
    body: dict[str, Any]
    raw: tuple[str, bytes]


class Route(NamedTuple):
    """The handler of one method and path."""

    writes: bool
    answer: Callable[[Request], Any]


def _json_lines(records: list[dict[str, Any]]) -> Response:
    lines = "".join(dumps(record) + "\n" for record in records)
    return Response(200, "application/jsonl", lines.encode())


def _start(r: Request) -> dict[str, str]:
    start = r.body["start"]
    calls.write_start(r.database, r.db, start)
    return {"id": start["id"], "trace_id": start["trace_id"]}


def _end(r: Request) -> dict[str, str]:
    calls.write_end(r.database, r.db, r.body["end"])
    return {}


def _complete(r: Request) -> dict[str, str]:
    for call in r.body["batch"]:
        calls.write_start(r.database, r.db, call)
        calls.write_end(r.database, r.db, call)
    return {}


def _upsert_batch(r: Request) -> dict[str, Any]:
    for item in r.body["batch"]:
        if item["mode"] == "start":
            calls.write_start(r.database, r.db, item["req"]["start"])
        else:
            calls.write_end(r.database, r.db, item["req"]["end"])
    return {"res": [{} for _ in r.body["batch"]]}


def _update(r: Request) -> dict[str, str]:
    calls.rename(r.db, r.body["project_id"], r.body["call_id"], r.body.get("display_name"))
    return {}


def _read_call(r: Request) -> dict[str, Any]:
    page = call_queries.query_calls(
        r.db,
        {
            "project_id": r.body["project_id"],
            "filter": {"call_ids": [r.body["id"]]},
            "include_costs": r.body.get("include_costs"),
        },
    )
    return {"call": page[0] if page else None}


def _projects_info(r: Request) -> list[dict[str, str]]:
    return [{"external_project_id": p, "internal_project_id": p} for p in r.body["project_ids"]]


def _graphql(r: Request) -> dict[str, Any]:
    text, variables = str(r.body.get("query")), r.body.get("variables") or {}
    if "upsertModel" in text:
        model = {"name": variables.get("name"), "description": variables.get("description")}
        return {"data": {"upsertModel": {"model": model, "project": model}}}
    if "viewer" in text:
        return {"data": {"viewer": {"username": "local", "defaultEntity": {"name": "local"}}}}
    if "project(" in text:
        return {"data": {"project": {"name": variables.get("name")}}}
    raise BadRequestError("unsupported GraphQL query; only `viewer`, `project` and `upsertModel` work")


def _file_create(r: Request) -> dict[str, str]:
    return {"digest": tables.create_file(r.database, r.db, *r.raw)}


def _feedback_page(r: Request) -> dict[str, Any]:
    result, total = feedback.query_feedback(r.db, r.body)
    return {"result": result, "total_count": total}


def _returns_nothing(action: Callable[[Request], None]) -> Callable[[Request], dict[str, str]]:
    def answer(r: Request) -> dict[str, str]:
        action(r)
        return {}

    return answer


_V2 = "/v2/(?P<entity>[^/]+)/(?P<project>[^/]+)"
_OBJ = "/objs/(?P<object>[^/]+)"
_VERSION = f"{_OBJ}/versions/(?P<digest>[^/]+)"

_ROUTES: dict[tuple[str, str], Route] = {
    ("GET", "/server_info"): Route(
        False,
        lambda r: {"min_required_weave_python_version": "0.0.0", "trace_server_version": "0.0.0-local"},
    ),
    ("POST", "/graphql"): Route(False, _graphql),
    ("POST", "/service/projects_info"): Route(False, _projects_info),
    # OpenTelemetry spans of other libraries are accepted and dropped.
    ("POST", "/agents/otel/v1/traces"): Route(False, lambda r: {}),
    ("POST", "/call/start"): Route(True, _start),
    ("POST", "/call/end"): Route(True, _end),
    ("POST", f"{_V2}/call/start"): Route(True, _start),
    ("POST", f"{_V2}/call/end"): Route(True, _end),
    ("POST", f"{_V2}/calls/complete"): Route(True, _complete),
    ("POST", "/call/upsert_batch"): Route(True, _upsert_batch),
    ("POST", "/call/update"): Route(True, _update),
    ("POST", "/call/read"): Route(False, _read_call),
    ("POST", "/calls/stream_query"): Route(
        False, lambda r: _json_lines(call_queries.query_calls(r.db, r.body))
    ),
    ("POST", "/calls/query_stats"): Route(False, lambda r: {"count": call_queries.count_calls(r.db, r.body)}),
    ("POST", "/calls/delete"): Route(
        True,
        lambda r: {"num_deleted": calls.delete_calls(r.db, r.body["project_id"], "id", r.body["call_ids"])},
    ),
    ("POST", "/obj/create"): Route(
        True,
        lambda r: {
            "digest": objects.create_object(r.database, r.db, r.body["obj"]),
            "object_id": r.body["obj"]["object_id"],
        },
    ),
    ("POST", "/obj/read"): Route(False, lambda r: {"obj": objects.read_object(r.db, r.body)}),
    ("POST", "/objs/query"): Route(False, lambda r: {"objs": objects.query_objects(r.db, r.body)}),
    ("POST", "/obj/delete"): Route(True, lambda r: {"num_deleted": objects.delete_objects(r.db, r.body)}),
    ("PUT", f"{_VERSION}/tags"): Route(
        True,
        _returns_nothing(
            lambda r: objects.add_tags(
                r.db, r.body["project_id"], r.path["object"], r.path["digest"], r.body["tags"]
            )
        ),
    ),
    ("POST", f"{_VERSION}/tags/remove"): Route(
        True,
        _returns_nothing(
            lambda r: objects.remove_tags(
                r.db, r.body["project_id"], r.path["object"], r.path["digest"], r.body["tags"]
            )
        ),
    ),
    ("PUT", f"{_OBJ}/aliases"): Route(
        True, _returns_nothing(lambda r: objects.set_aliases(r.db, r.body, r.path["object"]))
    ),
    ("POST", f"{_OBJ}/aliases/remove"): Route(
        True, _returns_nothing(lambda r: objects.remove_aliases(r.db, r.body, r.path["object"]))
    ),
    ("GET", "/tags"): Route(False, lambda r: {"tags": objects.labels(r.db, r.body["project_id"], "tag")}),
    ("GET", "/aliases"): Route(
        False, lambda r: {"aliases": objects.labels(r.db, r.body["project_id"], "alias")}
    ),
    ("POST", "/refs/read_batch"): Route(
        False, lambda r: {"vals": [references.value_of(r.db, ref) for ref in r.body["refs"]]}
    ),
    ("POST", "/table/create"): Route(True, lambda r: tables.create_table(r.database, r.db, r.body["table"])),
    ("POST", "/table/create_from_digests"): Route(
        True, lambda r: {"digest": tables.create_table_from_digests(r.database, r.db, r.body)}
    ),
    ("POST", "/table/update"): Route(True, lambda r: tables.update_table(r.database, r.db, r.body)),
    ("POST", "/table/query"): Route(False, lambda r: {"rows": tables.query_table(r.db, r.body)}),
    ("POST", "/table/query_stats"): Route(False, lambda r: {"count": tables.count_rows(r.db, r.body)}),
    ("POST", "/table/query_stats_batch"): Route(
        False,
        lambda r: {
            "tables": [
                {"digest": d, "count": tables.count_rows(r.db, {**r.body, "digest": d})}
                for d in r.body["digests"]
            ]
        },
    ),
    ("POST", "/file/create"): Route(True, _file_create),
    ("POST", "/file/content"): Route(
        False, lambda r: Response(200, "application/octet-stream", tables.read_file(r.db, r.body))
    ),
    ("POST", "/feedback/create"): Route(True, lambda r: feedback.create_feedback(r.database, r.db, r.body)),
    ("POST", "/feedback/batch/create"): Route(
        True,
        lambda r: {"res": [feedback.create_feedback(r.database, r.db, item) for item in r.body["batch"]]},
    ),
    ("POST", "/feedback/query"): Route(False, _feedback_page),
    ("POST", "/feedback/purge"): Route(
        True, _returns_nothing(lambda r: feedback.purge_feedback(r.db, r.body))
    ),
    ("POST", "/cost/create"): Route(True, lambda r: {"ids": prices.create_costs(r.database, r.db, r.body)}),
    ("POST", "/cost/query"): Route(False, lambda r: {"results": prices.query_costs(r.db, r.body)}),
    ("POST", "/cost/purge"): Route(True, _returns_nothing(lambda r: prices.purge_costs(r.db, r.body))),
}
_FIXED = {key: route for key, route in _ROUTES.items() if "(" not in key[1]}
_PATTERNS = [(method, re.compile(path), route) for (method, path), route in _ROUTES.items() if "(" in path]


_INVALID_BODY = (
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    StopIteration,
    OverflowError,
    # JSON that is nested too deeply.
    RecursionError,
    # SQLite cannot bind a value; which of the two depends on the Python version.
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
)


def handle(database: Database, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
    """Answer one request of Weave's client. Never raises.

    Args:
        database: The open file.
        method: The HTTP method.
        path: Path and query string, with or without the prefix ``/traces`` of W&B's cloud.
        headers: With lower-case names; only ``content-type`` is read.
        body: JSON; for ``/file/create``, a multipart form.
    """
    try:
        if len(body) > MAX_BODY:
            return _problem(413, f"the body has {len(body)} bytes; the limit is {MAX_BODY}")
        return _answer(database, method, path, headers.get("content-type", JSON), body)
    except BadRequestError as error:
        return _problem(400, str(error))
    except NotFoundError as error:
        return _problem(404, str(error), deleted_at=error.deleted_at)
    except _INVALID_BODY as error:
        # The body does not fit the route. The error's message may quote user text.
        field = f" `{error.args[0]}`" if isinstance(error, KeyError) and error.args else ""
        return _problem(400, f"{_shown(method, path)}: invalid request{field} ({type(error).__name__})")
    except Exception as error:  # noqa: BLE001 - the boundary of one request: full disk, broken file
        logger.warning("trace store: %s: %s", _shown(method, path), type(error).__name__)
        return _problem(500, f"the trace store failed: {type(error).__name__}")


def _answer(database: Database, method: str, path: str, content_type: str, body: bytes) -> Response:
    address = urlsplit(path)
    name = address.path.removeprefix("/traces")
    route, parts = _find_route(method, name)
    if route is None:
        return _problem(404, f"{method} {name[:200]} is not part of the local trace store")
    if method == "GET":
        fields: Any = {key: values[-1] for key, values in parse_qs(address.query).items()}
    elif content_type.startswith(JSON):
        fields = json.loads(body or b"{}")
    else:
        fields = {}
    with database.writing() if route.writes else database.reading() as db:
        answer = route.answer(Request(database, db, parts, fields, (content_type, body)))
    return answer if isinstance(answer, Response) else Response(200, JSON, dumps(answer).encode())


def _shown(method: str, path: str) -> str:
    """Return a request for a message: a path that is not a route may hold anything."""
    name = path.partition("?")[0].removeprefix("/traces")
    return f"{method} {name}" if (method, name) in _FIXED else method


def _find_route(method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    if route := _FIXED.get((method, path)):
        return route, {}
    for route_method, pattern, route in _PATTERNS:
        if route_method == method and (match := pattern.fullmatch(path)):
            return route, {name: unquote(value) for name, value in match.groupdict().items()}
    return None, {}


def _problem(status: int, message: str, **fields: Any) -> Response:
    return Response(status, JSON, dumps({"reason": message, **fields}).encode())
