"""Builds the trace page: one HTML file that loads nothing from outside.

The served page has no data and asks the routes of `program.tracing.view.page.json_routes` for it. The
exported page contains their answers.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from program.csp import csp_hash
from program.errors import StoreError
from program.tracing.server.routes import Response
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT
from program.tracing.view import reader
from program.tracing.view.personas import persona_history
from program.tracing.view.stored import current_persona, versions_of

if TYPE_CHECKING:
    from program.store import UserStore

PAGE_HEADERS = {"Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
_MAX_EXPORTED_TRACES = 2_000
_FOLDER = Path(__file__).parent


def empty_page() -> Response:
    """Return the served page, which has no data."""
    return Response(200, "text/html; charset=utf-8", _html("connect-src 'self'", None).encode())


def export_page(
    store: TraceStore,
    *,
    user_id: str | None = None,
    trace_id: str | None = None,
    users: UserStore | None = None,
) -> str:
    """Return a page with its data inside, which needs neither server nor network.

    Args:
        store: The open trace file.
        user_id: Only this user's traces.
        trace_id: Only this trace; ``user_id`` is then ignored.
        users: The users' store, for versions and what they rest on; ``None`` without it.

    Raises:
        StoreError: There is no such trace.
    """
    if trace_id is not None:
        lines = [reader.show_trace(store, trace_id).line]
    else:
        lines = reader.list_traces(store, user_id=user_id, limit=_MAX_EXPORTED_TRACES)
    user_ids = {line.user_id for line in lines}
    traced = store.users(LOCAL_PROJECT, limit=-1)
    data: dict[str, Any] = {
        "users": [user for user in traced if user["user_id"] in user_ids],
        "runs": store.runs(LOCAL_PROJECT, limit=-1) if trace_id is None and user_id is None else [],
        "traces": [asdict(line) for line in lines],
    }
    for user in sorted(str(user) for user in user_ids - {None}):
        changes = persona_history(store, user, versions_of(users, user))
        data[_key("personas", user=user)] = [asdict(change) for change in changes]
        data[_key("persona", user=user)] = current_persona(users, user)
    for line in lines:
        try:
            tree = reader.show_trace(store, line.trace_id)
        except StoreError:
            # The trace's id is damaged.
            tree = reader.CallNode(line=line)
        data[_key("trace", id=line.trace_id)] = asdict(tree)
        for call in reader.export_calls(store, trace_id=line.trace_id):
            data[_key("call", id=call["id"])] = call
    return _html("connect-src 'none'", data)


def _key(route: str, **query: str) -> str:
    # The same text as the page's `URLSearchParams`.
    return f"{route}?{urlencode(query, errors='replace')}"


def _html(connect: str, data: Any) -> str:
    style, script, html = (_read(name) for name in ("page.css", "page.js", "page.html"))
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(style)}'; {connect}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    # Only "<" could end the script element.
    content = (
        "null" if data is None else json.dumps(data, ensure_ascii=False, default=str).replace("<", "\\u003c")
    )
    return (
        html.replace("{{policy}}", policy)
        .replace("{{style}}", style)
        .replace("{{script}}", script)
        .replace("{{data}}", content)
    )


@lru_cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
