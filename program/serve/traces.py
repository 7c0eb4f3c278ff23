"""The trace viewer: its page, and the traces of all users or of one."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, Response

from program.serve.access import of_all_users, of_user
from program.serve.failures import ApiError
from program.serve.room import Room
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, store_path
from program.tracing.view.page.html import PAGE_HEADERS, empty_page
from program.tracing.view.page.json_routes import answer_page

_OF_ONE_USER = ("traces", "personas", "persona")
_BY_ID = {"trace": "trace_ids", "call": "call_ids"}


def traces_router() -> APIRouter:
    """Return the routes of the viewer. The page holds no data, and needs no key."""
    router = APIRouter(include_in_schema=False)

    @router.get("/traces", response_class=HTMLResponse)
    async def page() -> Response:
        found = empty_page()
        headers = {**PAGE_HEADERS, "Content-Security-Policy": "frame-ancestors 'none'"}
        return Response(found.body, found.status, headers, media_type=found.content_type)

    @router.get("/v1/traces/{name}", dependencies=[Depends(of_all_users("read"))])
    def of_all(request: Request, name: str) -> Response:
        return _answer(request, name, dict(request.query_params))

    @router.get("/v1/users/{user_id}/traces/{name}")
    def of_one(request: Request, user_id: Annotated[str, Depends(of_user("read"))], name: str) -> Response:
        request.app.state.room.store.user(user_id)
        if name not in (*_BY_ID, *_OF_ONE_USER):
            raise ApiError(403, "other_user", "this needs a key for all users")
        return _answer(request, name, {**request.query_params, "user": user_id}, owner=user_id)

    return router


def _answer(request: Request, name: str, query: dict[str, str], *, owner: str | None = None) -> Response:
    room: Room = request.app.state.room
    with closing(_store(room)) as store:
        if owner is not None and name in _BY_ID:
            _check_owner(store, owner, {_BY_ID[name]: [query.get("id", "")]})
        found = answer_page(store, f"/view/{name}?{urlencode(query)}", users=room.store)
    return Response(found.body, found.status, media_type=found.content_type)


def _store(room: Room) -> TraceStore:
    path = store_path(room.home)
    if not path.exists():
        raise ApiError(404, "no_traces", "there are no traces yet: `personaagent align` and `ask` write them")
    return TraceStore(path)


def _check_owner(store: TraceStore, user_id: str, filter_: dict[str, Any]) -> None:
    """Raise `ApiError` 404, as for an unknown id, unless all these calls are the user's."""
    calls = store.count(LOCAL_PROJECT, filter=filter_)
    own = {"$eq": [{"$getField": "attributes.user_id"}, {"$literal": user_id}]}
    if not calls or calls != store.count(LOCAL_PROJECT, filter=filter_, query={"$expr": own}):
        raise ApiError(404, "unknown_trace", "there is no such trace")
