"""OpenAI's API in front of any server that speaks it: adds what is known of the user, changes no reply."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import httpx
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from program.errors import ConfigError, PersonaAgentError, UnknownUserError
from program.memory.interaction import Interaction
from program.serve.access import USER_HEADER, Caller, check_right, chosen_user
from program.serve.chat import Api, ReplyText, ends_with_request, find_problem, last_request, with_context
from program.serve.context import UserContext
from program.serve.failures import ApiError
from program.serve.keys import Key
from program.serve.metrics import Metrics
from program.serve.recall import Recall
from program.store import UserStore
from program.task import get_task

logger = logging.getLogger("personaagent.program.serve")

PERSONA_HEADER = "X-PersonaAgent-Persona"
KEY_VARIABLE = "PERSONAAGENT_UPSTREAM_KEY"
_OPENAI = "api.openai.com"
# A header of one connection, or what this server has to say itself.
_NOT_FORWARDED = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host "
    "content-length authorization cookie origin referer expect forwarded x-forwarded-for x-forwarded-host "
    "x-forwarded-proto x-real-ip x-request-id".split()
)
_OWN = "x-personaagent-"


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The server that answers.

    Attributes:
        url: Its base URL, as an OpenAI client takes it: ``http://localhost:8000/v1``.
        key: What it is sent as a bearer token; empty for none.
        connect_seconds: How long a connection may take.
        read_seconds: How long it may say nothing.

    Raises:
        ConfigError: The URL is not one.
    """

    url: str
    key: str = ""
    connect_seconds: float = 10.0
    read_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Check the URL."""
        try:
            address = urlsplit(self.url)
            good = address.scheme in ("http", "https") and bool(address.hostname) and not address.query
        except ValueError:
            good = False
        if not good:
            raise ConfigError(
                f"`--upstream` must be a URL like http://localhost:8000/v1, got {self.url!r}; it is the base "
                "URL that an OpenAI client takes"
            )

    @classmethod
    def from_environment(cls, url: str) -> Upstream:
        """Return a server with the key in ``PERSONAAGENT_UPSTREAM_KEY``.

        ``OPENAI_API_KEY`` is sent to OpenAI alone.

        Example:
            >>> Upstream.from_environment("http://localhost:8000/v1").key
            ''
        """
        upstream = cls(url=url)
        openai = os.environ.get("OPENAI_API_KEY", "") if urlsplit(url).hostname == _OPENAI else ""
        return cls(url=upstream.url, key=os.environ.get(KEY_VARIABLE, "") or openai)

    def client(self) -> httpx.AsyncClient:
        """Return a client for many requests at once; close it."""
        timeout = httpx.Timeout(self.read_seconds, connect=self.connect_seconds, pool=self.connect_seconds)
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=200)
        return httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False, trust_env=False)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """Answers `chat/completions` and `responses`.

    Attributes:
        store: The users' store.
        recall: What is known of the users.
        upstream: The server that answers.
        client: From `Upstream.client`.
        metrics: What counts the recorded turns.
        record: Whether a turn becomes an interaction, if the key may write.
        max_tokens: Length of what is added, at most.
    """

    store: UserStore
    recall: Recall
    upstream: Upstream
    client: httpx.AsyncClient
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
        context = await anyio.to_thread.run_sync(self._context, user_id, query, records)
        if context.text:
            body = with_context(api, body, context.text)
        records = records and bool(query.strip()) and ends_with_request(api, body)
        headers = _forwarded(request.headers, plain=records)
        reply = await self.send("POST", api, headers, _encode(body))
        collected = ReplyText(api, streams=body.get("stream") is True) if records else None
        return self._passed(reply, context, user_id, query, collected)

    async def send(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None = None
    ) -> httpx.Response:
        """Send a request on; the body of the reply is unread.

        Raises:
            ApiError: 502 or 504 if there is no reply.
        """
        if self.upstream.key:
            headers["authorization"] = f"Bearer {self.upstream.key}"
        url = f"{self.upstream.url.rstrip('/')}/{path}"
        request = self.client.build_request(method, url, headers=headers, content=content)
        try:
            return await self.client.send(request, stream=True)
        except httpx.TimeoutException as error:
            raise ApiError(504, "upstream_timeout", "the model's server did not answer in time") from error
        except httpx.HTTPError as error:
            logger.warning("the upstream cannot be reached: %s", type(error).__name__)
            raise ApiError(502, "upstream_unreachable", "the model's server cannot be reached") from error

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
        reply: httpx.Response,
        context: UserContext,
        user_id: str,
        query: str,
        collected: ReplyText | None,
    ) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in reply.aiter_raw():
                    if collected is not None:
                        collected.feed(chunk)
                    yield chunk
            finally:
                with anyio.CancelScope(shield=True):
                    await reply.aclose()
            if collected is not None and reply.status_code == 200:
                await anyio.to_thread.run_sync(self._record, user_id, query, collected.finish())

        version = context.persona_version
        headers = {**_returned(reply), PERSONA_HEADER: "none" if version is None else str(version)}
        return StreamingResponse(chunks(), reply.status_code, headers=headers)

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
        reply = await _proxy(request).send("GET", "models", _forwarded(request.headers, plain=False))

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in reply.aiter_raw():
                    yield chunk
            finally:
                await reply.aclose()

        return StreamingResponse(chunks(), reply.status_code, headers=_returned(reply))

    return router


def _proxy(request: Request) -> Proxy:
    proxy: Proxy | None = request.app.state.proxy
    if proxy is None:
        raise ApiError(
            501, "no_upstream", "the server has no model to forward to: start it with `--upstream URL`"
        )
    return proxy


def _forwarded(headers: Mapping[str, str], *, plain: bool) -> dict[str, str]:
    kept = {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() not in _NOT_FORWARDED and not name.lower().startswith(_OWN)
    }
    # httpx would add its own. What is recorded must be readable.
    if plain or "accept-encoding" not in kept:
        kept["accept-encoding"] = "identity"
    return kept


def _returned(reply: httpx.Response) -> dict[str, str]:
    dropped = _NOT_FORWARDED - {"content-length", "x-request-id"} | {"set-cookie", "server", "date"}
    return {name: value for name, value in reply.headers.items() if name.lower() not in dropped}


def _encode(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise ApiError(
            400, "invalid_json", "the body holds NaN, Infinity or half of a surrogate pair"
        ) from error
