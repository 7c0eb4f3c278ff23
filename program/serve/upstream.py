"""The server that answers chats: connections that are used again, and replies as the bytes that arrive."""

from __future__ import annotations

import asyncio
import io
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from program.errors import ConfigError
from program.serve.failures import ApiError

logger = logging.getLogger("personaagent.program.serve")

Headers = Iterable[tuple[bytes, bytes]]
"""Names and values, as they are sent."""

KEY_VARIABLE = "PERSONAAGENT_UPSTREAM_KEY"
_OPENAI = "api.openai.com"
_MOST_CONNECTIONS = 1000

_IDLE_SECONDS = 4.0
"""How long an unused connection is kept: less than the 5 s after which many servers close it."""

_LARGE = 1 << 20
"""Bytes from which on a body is sent in pieces."""


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

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connections]:
        """Open the connections for many requests at once, inside the block."""
        secure = urlsplit(self.url).scheme == "https"
        connector = aiohttp.TCPConnector(
            limit=_MOST_CONNECTIONS,
            keepalive_timeout=_IDLE_SECONDS,
            # With the authorities of every other call of this package.
            ssl=httpx.create_ssl_context(trust_env=False) if secure else True,
        )
        timeout = aiohttp.ClientTimeout(connect=self.connect_seconds, sock_read=self.read_seconds)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trust_env=False,
        ) as session:
            yield Connections(self, session)


class Connections:
    """The connections to a server, from `Upstream.connected`."""

    def __init__(self, upstream: Upstream, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session

    async def send(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Send a request on; the body of the reply is unread.

        Raises:
            ApiError: 502 or 504 if there is no reply.
        """
        if self._upstream.key:
            headers["authorization"] = f"Bearer {self._upstream.key}"
        url = f"{self._upstream.url.rstrip('/')}/{path}"
        large = content is not None and len(content) > _LARGE
        try:
            return await self._session.request(
                method,
                url,
                headers=headers,
                data=io.BytesIO(content or b"") if large else content,
                allow_redirects=False,
            )
        except asyncio.TimeoutError as error:
            raise ApiError(504, "upstream_timeout", "the model's server did not answer in time") from error
        except aiohttp.ClientError as error:
            logger.warning("the upstream cannot be reached: %s", type(error).__name__)
            raise ApiError(502, "upstream_unreachable", "the model's server cannot be reached") from error


class Passed(Response):
    """Sends a reply on as it arrives. If the client leaves, the upstream is left, too.

    Args:
        reply: The reply; its body is unread.
        headers: What is sent instead of its own headers.
        seen: Gets each piece of the body.
        ended: Runs after the last piece was sent, also if the client has left by then: one that knows the
            reply's last event does not wait for the end of its bytes.
    """

    def __init__(
        self,
        reply: aiohttp.ClientResponse,
        headers: Headers,
        *,
        seen: Callable[[bytes], None] | None = None,
        ended: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.status_code = reply.status
        self.raw_headers = list(headers)
        self.background = None
        self._reply, self._seen, self._ended = reply, seen, ended
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        reply = self._reply
        watching = None if reply.content.is_eof() else asyncio.create_task(self._watch(receive))
        try:
            await self._send(send)
        except (aiohttp.ClientError, asyncio.TimeoutError):
            if not self._left:
                raise
        finally:
            reply.close()
            if watching is not None:
                watching.cancel()
        if self._ended is not None:
            await self._ended()

    async def _send(self, send: Send) -> None:
        content = self._reply.content
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        more = True
        while more:
            piece = await content.readany()
            more = bool(piece) and not content.at_eof()
            if piece and self._seen is not None:
                self._seen(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._reply.close()
