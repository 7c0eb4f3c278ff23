"""The JSON routes of the trace page: ``/view/NAME?...``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from program.errors import StoreError
from program.tracing.server.routes import Response
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT
from program.tracing.view import reader
from program.tracing.view.personas import persona_history
from program.tracing.view.stored import current_persona, versions_of

if TYPE_CHECKING:
    from program.store import UserStore

PAGE_SIZE = 200


class _Place(NamedTuple):
    """Where the answers are."""

    store: TraceStore
    users: UserStore | None


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    return max(0, int(query.get(name) or default))


def _limit_and_offset(query: Mapping[str, str]) -> dict[str, Any]:
    limit = min(_number(query, "limit", PAGE_SIZE), PAGE_SIZE)
    return {"limit": limit, "offset": _number(query, "offset", 0)}


def _users(at: _Place, query: Mapping[str, str]) -> Any:
    return at.store.users(LOCAL_PROJECT, search=query.get("search", ""), **_limit_and_offset(query))


def _runs(at: _Place, query: Mapping[str, str]) -> Any:
    return at.store.runs(LOCAL_PROJECT, **_limit_and_offset(query))


def _traces(at: _Place, query: Mapping[str, str]) -> Any:
    lines = reader.list_traces(
        at.store,
        user_id=query.get("user"),
        run_id=query.get("run"),
        failed=query.get("failed") == "1",
        query=query.get("search") or None,
        **_limit_and_offset(query),
    )
    return [asdict(line) for line in lines]


def _trace(at: _Place, query: Mapping[str, str]) -> Any:
    return asdict(reader.show_trace(at.store, query["id"]))


def _call(at: _Place, query: Mapping[str, str]) -> Any:
    calls = at.store.calls(LOCAL_PROJECT, filter={"call_ids": [query["id"]]})
    if not calls:
        raise StoreError(f"no call {query['id']!r:.60}")
    return calls[0]


def _personas(at: _Place, query: Mapping[str, str]) -> Any:
    user_id = query["user"]
    changes = persona_history(at.store, user_id, versions_of(at.users, user_id))
    return [asdict(change) for change in changes]


def _persona(at: _Place, query: Mapping[str, str]) -> Any:
    return current_persona(at.users, query["user"])


_ROUTES: dict[str, Callable[[_Place, Mapping[str, str]], Any]] = {
    "users": _users,
    "runs": _runs,
    "traces": _traces,
    "trace": _trace,
    "call": _call,
    "personas": _personas,
    "persona": _persona,
}


def answer_page(store: TraceStore, path: str, *, users: UserStore | None = None) -> Response:
    """Answer one request of the page. Never raises.

    Args:
        store: The open trace file.
        path: Path and query string.
        users: The users' store, for versions and what they rest on; ``None`` without it.
    """
    try:
        address = urlsplit(path)
    except ValueError:
        return _json(400, {"reason": "the path is not valid"})
    route = _ROUTES.get(address.path.removeprefix("/view/"))
    if route is None:
        return _json(404, {"reason": f"no route {address.path[:60]!r}"})
    try:
        return _json(200, route(_Place(store, users), dict(parse_qsl(address.query))))
    except StoreError as error:
        return _json(404, {"reason": str(error)})
    except (KeyError, ValueError) as error:
        return _json(400, {"reason": f"invalid request ({type(error).__name__})"})
    except Exception as error:  # noqa: BLE001 - the boundary of one request
        return _json(500, {"reason": f"the trace store failed: {type(error).__name__}"})


def _json(status: int, value: Any) -> Response:
    # Half of a surrogate pair becomes its JSON escape.
    body = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
    return Response(status, "application/json", body)
