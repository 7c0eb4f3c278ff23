"""What stands before every route: only known names and origins, a request id, a log line, a measurement.

A page of another site can reach this server from the browser of someone who runs it (CSRF), even under a
name of its own that it points here (DNS rebinding). Neither gets past this.
"""

from __future__ import annotations

import logging
import random
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from program.serve.failures import ApiError, error_response
from program.serve.metrics import Metrics

logger = logging.getLogger("personaagent.program.serve")

LOCAL = ("127.0.0.1", "localhost", "::1")
REQUEST_ID = "X-Request-ID"


class Guard:
    """ASGI middleware around the whole app.

    Args:
        app: The app.
        hosts: Names that a Host header may have.
        metrics: What counts the requests.
        max_body: Bytes of a request's body, at most.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], metrics: Metrics, max_body: int) -> None:
        self.inner = app
        self._hosts = frozenset(name.lower() for name in hosts)
        self._metrics = metrics
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        # Only unique, not secret: no call to the system for each request.
        request_id, started, status = f"{random.getrandbits(128):032x}", time.perf_counter(), 500
        started_answer, received = False, 0
        scope.setdefault("state", {})["request_id"] = request_id
        scope["path"] = split_path(scope.get("raw_path") or quote(scope["path"]).encode())

        async def answer(message: Message) -> None:
            nonlocal status, started_answer
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
                started_answer = True
            await send(message)

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:
                raise HTTPException(413, self._too_large())
            return message

        try:
            refusal = self._problem(scope)
            if refusal is None:
                await self.inner(scope, limited, answer)
            else:
                await error_response(refusal)(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - its message and its frames may hold a user's text
            _log_error(request_id, error)
            # After the first byte the connection is cut, so that the client sees that the reply is not whole.
            if not started_answer:
                failed = ApiError(500, "internal_error", "the server failed; its log has the place")
                await error_response(failed)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = _route(scope)
            self._metrics.count(route, scope["method"], status, seconds)
            _log(request_id, route, scope, status, seconds)

    def _problem(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        address = _address(f"//{hosts[0]}") if len(hosts) == 1 else None
        if address is None or address[0] not in self._hosts:
            return ApiError(403, "unknown_host", "the Host header names no host that this server answers to")
        if (origin := headers.get("origin")) is not None and _address(origin) != address:
            return ApiError(403, "other_origin", "pages of other sites cannot use this server")
        # A link on another site may open a page here; that site cannot read it.
        opened = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not opened:
            return ApiError(403, "other_origin", "pages of other sites cannot use this server")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            return ApiError(413, "too_large", self._too_large())
        return None

    def _too_large(self) -> str:
        return f"the body has more than {self._max_body:,} bytes"


def split_path(raw_path: bytes) -> str:
    """Return a path in which only slashes and percent signs of its parts are still encoded.

    A user id may hold a slash, which must not divide the path.

    Example:
        >>> split_path(b"/v1/users/team%2Fana%C3%A9/persona?x=1")
        '/v1/users/team%2Fanaé/persona'
    """
    parts = raw_path.partition(b"?")[0].decode("ascii", "replace").split("/")
    texts = [unquote_to_bytes(part).decode("utf-8", "replace") for part in parts]
    return "/".join(text.replace("%", "%25").replace("/", "%2F") for text in texts)


def _address(url: str) -> tuple[str, int | None] | None:
    """Return name and port of a URL; ``None`` if it has none."""
    try:
        address = urlsplit(url)
        name, port = address.hostname, address.port
    except ValueError:
        return None
    default = {"http": 80, "https": 443}.get(address.scheme)
    # A server does not know by which scheme it is reached behind another one.
    return None if name is None else (name, None if port in (default, 80, 443) else port)


def _route(scope: Scope) -> str:
    """Return the route's pattern: a path holds user ids."""
    route: Any = scope.get("route")
    if route is not None:
        return str(getattr(route, "path", "other"))
    return "/mcp" if scope["path"].startswith("/mcp") else "other"


def _log(request_id: str, route: str, scope: Scope, status: int, seconds: float) -> None:
    line = {
        "request_id": request_id,
        "method": scope["method"],
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 1),
        "key": scope["state"].get("key_id"),
    }
    logger.info("request", extra={"fields": line})


def _log_error(request_id: str, error: Exception) -> None:
    """Log the type of an error and where it came from, and nothing of its message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    line = {"request_id": request_id, "error": type(error).__name__, "at": place}
    logger.error("failed", extra={"fields": line})
