"""The trace page: one HTML file without any outside resource, served or exported.

Served, it holds no data and asks the JSON routes below for pages of it. Exported, the answers to
the same routes are inside the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from program.errors import StoreError
from program.tracing.server.routes import Response
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT
from program.tracing.view import reader

PAGE_SIZE = 200
_EXPORTED_TRACES = 2_000
_HERE = Path(__file__).parent

PAGE_HEADERS = {"Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    return max(0, int(query.get(name) or default))


def _page(query: Mapping[str, str]) -> dict[str, Any]:
    limit = min(_number(query, "limit", PAGE_SIZE), PAGE_SIZE)
    return {"limit": limit, "offset": _number(query, "offset", 0)}


def _users(store: TraceStore, query: Mapping[str, str]) -> Any:
    return store.users(LOCAL_PROJECT, search=query.get("search", ""), **_page(query))


def _runs(store: TraceStore, query: Mapping[str, str]) -> Any:
    return store.runs(LOCAL_PROJECT, **_page(query))


def _traces(store: TraceStore, query: Mapping[str, str]) -> Any:
    lines = reader.list_traces(
        store,
        user_id=query.get("user"),
        run_id=query.get("run"),
        failed=query.get("failed") == "1",
        **_page(query),
    )
    return [asdict(line) for line in lines]


def _trace(store: TraceStore, query: Mapping[str, str]) -> Any:
    return asdict(reader.show_trace(store, query["id"]))


def _call(store: TraceStore, query: Mapping[str, str]) -> Any:
    found = store.calls(LOCAL_PROJECT, filter={"call_ids": [query["id"]]})
    if not found:
        raise StoreError(f"no call {query['id']!r:.60}")
    return found[0]


def _personas(store: TraceStore, query: Mapping[str, str]) -> Any:
    return [asdict(change) for change in reader.persona_line(store, query["user"])]


_ROUTES: dict[str, Callable[[TraceStore, Mapping[str, str]], Any]] = {
    "users": _users,
    "runs": _runs,
    "traces": _traces,
    "trace": _trace,
    "call": _call,
    "personas": _personas,
}


def answer_viewer(store: TraceStore, path: str) -> Response:
    """Answer one of the page's JSON routes (``/view/NAME?...``). Never raises."""
    address = urlsplit(path)
    route = _ROUTES.get(address.path.removeprefix("/view/"))
    if route is None:
        return _json(404, {"reason": "no such route"})
    try:
        return _json(200, route(store, dict(parse_qsl(address.query))))
    except StoreError as error:
        return _json(404, {"reason": str(error)})
    except (KeyError, ValueError) as error:
        return _json(400, {"reason": f"unreadable request ({type(error).__name__})"})
    except Exception as error:  # noqa: BLE001 - the boundary of one request
        return _json(500, {"reason": f"the trace store failed: {type(error).__name__}"})


def _json(status: int, value: Any) -> Response:
    return Response(status, "application/json", json.dumps(value, ensure_ascii=False).encode())


def page() -> Response:
    """Return the page as it is served: without data."""
    return Response(200, "text/html; charset=utf-8", _html("connect-src 'self'", None).encode())


def export_page(store: TraceStore, *, user_id: str | None = None, trace_id: str | None = None) -> str:
    """Return the page with data inside, to be kept or sent: it needs neither server nor network.

    Args:
        store: Where to read.
        user_id: Only this user's traces.
        trace_id: Only this trace.
    """
    if trace_id is not None:
        lines = [reader.show_trace(store, trace_id).line]
    else:
        lines = reader.list_traces(store, user_id=user_id, limit=_EXPORTED_TRACES)
    known = {line.user_id for line in lines}
    users = store.users(LOCAL_PROJECT, limit=-1)
    data: dict[str, Any] = {
        "users": [user for user in users if user["user_id"] in known],
        "runs": store.runs(LOCAL_PROJECT, limit=-1) if trace_id is None and user_id is None else [],
        "traces": [asdict(line) for line in lines],
    }
    for user in known - {None}:
        data[_key("personas", user=str(user))] = _personas(store, {"user": str(user)})
    for line in lines:
        data[_key("trace", id=line.trace_id)] = _trace(store, {"id": line.trace_id})
        for call in reader.export_calls(store, trace_id=line.trace_id):
            data[_key("call", id=call["id"])] = call
    return _html("connect-src 'none'", data)


def _key(route: str, **query: str) -> str:
    # As the page's URLSearchParams writes it.
    return f"{route}?{urlencode(query)}"


def _html(connect: str, data: Any) -> str:
    style, script, frame = (_part(name) for name in ("page.css", "page.js", "page.html"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; {connect}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    # Inside a script element only "<" could end it.
    held = "null" if data is None else json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return (
        frame.replace("{{policy}}", policy)
        .replace("{{style}}", style)
        .replace("{{script}}", script)
        .replace("{{data}}", held)
    )


@lru_cache
def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
