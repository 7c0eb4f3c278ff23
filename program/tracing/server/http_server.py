"""The HTTP server: serves the local trace store, and the page that shows it, on loopback.

Another process uses it with plain ``weave.init`` if ``WANDB_BASE_URL`` is the address and
``WANDB_API_KEY`` the key. All data needs the key; only the empty page does not.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from program.errors import ConfigError
from program.tracing.server.routes import MAX_BODY, Response
from program.tracing.server.trace_store import TraceStore
from program.tracing.view.page.html import PAGE_HEADERS, empty_page
from program.tracing.view.page.json_routes import answer_page

_LOCAL = ("127.0.0.1", "localhost", "::1")
# These return no data. Weave's client calls some of them before it sends a key.
_WITHOUT_KEY = (
    "/server_info",
    "/traces/server_info",
    "/traces/agents/otel/v1/traces",
    "/agents/otel/v1/traces",
)


class TraceServer(ThreadingHTTPServer):
    """A server on loopback. Run it with `serve_forever`; stop it with `shutdown`.

    Args:
        store: The open trace file.
        host: A loopback address.
        port: The port; 0 picks a free one (see `address`).
        key: The key that clients must send; random by default.

    Raises:
        ConfigError: The host is not loopback, or the port is in use.

    Example:
        >>> from pathlib import Path
        >>> store = TraceStore(Path("traces.db"))
        >>> with TraceServer(store, port=0, key="secret") as server:
        ...     server.page_address.endswith("/#key=secret")
        True
        >>> store.close()
    """

    daemon_threads = True
    # Weave opens many connections at once; the default queue of five refuses some.
    request_queue_size = 128

    def __init__(
        self, store: TraceStore, *, host: str = "127.0.0.1", port: int = 0, key: str | None = None
    ) -> None:
        if host not in _LOCAL:
            raise ConfigError(
                f"`host` must be a loopback address, got {host!r}; use a tunnel for remote access"
            )
        self.store = store
        self.key = key or secrets.token_hex(20)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}; try another port"
            ) from error

    @property
    def address(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def page_address(self) -> str:
        """The URL of the page. The key follows ``#``, which browsers do not send to servers."""
        return f"{self.address}/#key={self.key}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: TraceServer

    def _serve(self) -> None:
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or "chunked" in self.headers.get("transfer-encoding", ""):
            self._refuse(411, "Content-Length is required")
        elif int(length) > MAX_BODY:
            self._refuse(413, f"the limit is {MAX_BODY} bytes")
        elif urlsplit(f"//{self.headers.get('host', '')}").hostname not in _LOCAL:
            # Another site may have pointed its own name at this address (DNS rebinding).
            self._refuse(403, "the Host header must be a loopback name")
        else:
            self._answer(self.rfile.read(int(length)))

    do_GET = do_POST = do_PUT = _serve

    def _answer(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        if self.command == "GET" and path == "/":
            self._send(empty_page(), PAGE_HEADERS)
        elif path not in _WITHOUT_KEY and not self._has_key():
            self._send(Response(401, "application/json", b'{"reason":"the API key is missing or wrong"}'))
        elif path.startswith("/view/"):
            self._send(answer_page(self.server.store, self.path))
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(self.server.store.handle(self.command, self.path, headers, body))

    def _has_key(self) -> bool:
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(key).decode().rpartition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        return hmac.compare_digest(key.encode(), self.server.key.encode())

    def _refuse(self, status: int, reason: str) -> None:
        # The body is unread, so the connection cannot be reused.
        self.close_connection = True
        self._send(Response(status, "application/json", f'{{"reason":"{reason}"}}'.encode()))

    def _send(self, response: Response, headers: dict[str, str] | None = None) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Log nothing: paths contain ids."""
