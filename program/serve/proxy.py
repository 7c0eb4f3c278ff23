"""OpenAI's API in front of any server that speaks it: adds what is known of the user, changes no reply."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from aiohttp import ClientResponse
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import Response

from program.errors import PersonaAgentError, UnknownUserError
from program.memory.interaction import Interaction
from program.serve.access import USER_HEADER, Caller, check_right, chosen_user
from program.serve.chat import Api, ReplyText, ends_with_request, find_problem, last_request, with_context
from program.serve.context import UserContext
from program.serve.failures import ApiError
from program.serve.keys import Key
from program.serve.metrics import Metrics
from program.serve.recall import Recall
from program.serve.upstream import Connections, Passed
from program.store import UserStore
from program.task import get_task

logger = logging.getLogger("personaagent.program.serve")

PERSONA_HEADER = b"x-personaagent-persona"
# A header of one connection, or what this server has to say itself.
_NOT_FORWARDED = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host "
    "content-length authorization cookie origin referer expect forwarded x-forwarded-for x-forwarded-host "
    "x-forwarded-proto x-real-ip x-request-id".split()
)
_NOT_RETURNED = frozenset(
    name.encode()
    for name in _NOT_FORWARDED - {"content-length", "x-request-id"} | {"set-cookie", "server", "date"}
)
_OWN = "x-personaagent-"


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """Answers `chat/completions` and `responses`.

    Attributes:
        store: The users' store.
        recall: What is known of the users.
        connections: To the server that answers.
        metrics: What counts the recorded turns.
        record: Whether a turn becomes an interaction, if the key may write.
        max_tokens: Length of what is added, at most.
    """

    store: UserStore
    recall: Recall
    connections: Connections
    metrics: Metrics
    record: bool
    max_tokens: int

    async def answer(self, api: Api, request: Request, key: Key) -> Response:
        """Add the user's context to a request, send it on, and pass the reply through as it is."""
        check_right(key, "read")
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "invalid_json", "the body is not JSON") from error
        if (problem := find_problem(api, body)) is not None:
            raise ApiError(400, "invalid_request", f"`{problem[0]}` {problem[1]}")
        fields = (body.get("safety_identifier"), body.get("user"))
        user_id = chosen_user(key, request.headers.get(USER_HEADER), *fields)
        records = self.record and key.has("write")
        query = last_request(api, body)
        context = await asyncio.to_thread(self._context, user_id, query, records)
        if context.text:
            body = with_context(api, body, context.text)
        records = records and bool(query.strip()) and ends_with_request(api, body)
        headers = _forwarded(request.headers, plain=records)
        reply = await self.connections.send("POST", api, headers, _encode(body))
        collected = ReplyText(api, streams=body.get("stream") is True) if records else None
        return self._passed(reply, context, user_id, query, collected)

    def _context(self, user_id: str, query: str, adds: bool) -> UserContext:
        try:
            return self.recall.context(user_id, query, max_tokens=self.max_tokens)
        except UnknownUserError:
            if not adds:
                raise
            self.store.add_user(user_id, task="free-text")
            return UserContext()

    def _passed(
        self,
        reply: ClientResponse,
        context: UserContext,
        user_id: str,
        query: str,
        collected: ReplyText | None,
    ) -> Response:
        version = "none" if context.persona_version is None else str(context.persona_version)
        headers = [*_returned(reply), (PERSONA_HEADER, version.encode())]
        if collected is None or reply.status != 200:
            return Passed(reply, headers)

        async def record() -> None:
            await asyncio.to_thread(self._record, user_id, query, collected.finish())

        return Passed(reply, headers, seen=collected.feed, ended=record)

    def _record(self, user_id: str, query: str, text: str | None) -> None:
        """Store a turn; what cannot be stored is counted and stops nothing: the reply was sent."""
        try:
            ok = text is not None and self._store_turn(user_id, query, text)
        except PersonaAgentError as error:
            ok = False
            logger.warning("a turn was not recorded: %s", type(error).__name__)
        self.metrics.count_record(ok)

    def _store_turn(self, user_id: str, query: str, text: str) -> bool:
        task = get_task(self.store.user(user_id).task)
        interaction = Interaction(
            id=uuid4().hex,
            user_id=user_id,
            query=query,
            response=task.response_type.parse(text),
            timestamp=datetime.now(timezone.utc),
            metadata={"source": "chat"},
        )
        return self.store.append(user_id, [interaction]) == 1


def proxy_router() -> APIRouter:
    """Return the routes. The app's state has the `Proxy`, or ``None`` without an upstream."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions", response_class=Response)
    async def chat_completions(request: Request, key: Caller) -> Response:
        """Forward a chat, with one system message more: the user's persona and memories."""
        return await _proxy(request).answer("chat/completions", request, key)

    @router.post("/v1/responses", response_class=Response)
    async def responses(request: Request, key: Caller) -> Response:
        """Forward a request of the responses API, with the user's persona and memories."""
        return await _proxy(request).answer("responses", request, key)

    @router.get("/v1/models", response_class=Response)
    async def models(request: Request, key: Caller) -> Response:
        """List the models of the server that answers."""
        check_right(key, "read")
        headers = _forwarded(request.headers, plain=False)
        reply = await _proxy(request).connections.send("GET", "models", headers)
        return Passed(reply, _returned(reply))

    return router


def _proxy(request: Request) -> Proxy:
    proxy: Proxy | None = request.app.state.proxy
    if proxy is None:
        raise ApiError(
            501, "no_upstream", "the server has no model to forward to: start it with `--upstream URL`"
        )
    return proxy


def _forwarded(headers: Headers, *, plain: bool) -> dict[str, str]:
    kept = {
        name: value.encode("latin-1").decode("utf-8", "replace")
        for name, value in headers.items()
        if name not in _NOT_FORWARDED and not name.startswith(_OWN)
    }
    # What is recorded must be readable.
    if plain or "accept-encoding" not in kept:
        kept["accept-encoding"] = "identity"
    return kept


def _returned(reply: ClientResponse) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in reply.raw_headers if name.lower() not in _NOT_RETURNED]


def _encode(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise ApiError(
            400, "invalid_json", "the body holds NaN, Infinity or half of a surrogate pair"
        ) from error
