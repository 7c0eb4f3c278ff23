"""The HTTP door: the local store on loopback, for other processes and for the viewer.

Plain ``weave.init`` of another process works with ``WANDB_BASE_URL`` set to the address and
``WANDB_API_KEY`` to the key. Nothing is answered without the key but the empty page.
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
from program.tracing.view.page import PAGE_HEADERS, answer_viewer, page

_LOCAL = ("127.0.0.1", "localhost", "::1")
# The client asks these before it has sent a key, or for no data at all.
_OPEN = ("/server_info", "/traces/server_info", "/traces/agents/otel/v1/traces", "/agents/otel/v1/traces")


class TraceServer(ThreadingHTTPServer):
    """A server on loopback; use `serve_forever` and `shutdown`.

    Args:
        store: What is offered.
        host: A loopback address.
        port: 0 takes any free one; see `address`.
        key: What clients must send; by default a new random one.

    Raises:
        ConfigError: The host is not loopback, or the port is taken.
    """

    daemon_threads = True
    # Weave opens many connections at once; the default of five is refused under load.
    request_queue_size = 128

    def __init__(
        self, store: TraceStore, *, host: str = "127.0.0.1", port: int = 0, key: str | None = None
    ) -> None:
        if host not in _LOCAL:
            raise ConfigError(f"`host` must be a loopback address, got {host!r}; use a tunnel for others")
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
        """The base address, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def page_address(self) -> str:
        """The viewer's address; the key is behind the ``#``, which browsers do not send."""
        return f"{self.address}/#key={self.key}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: TraceServer

    def _serve(self) -> None:
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or "chunked" in self.headers.get("transfer-encoding", ""):
            self._refuse(411, "a Content-Length is needed")
        elif int(length) > MAX_BODY:
            self._refuse(413, f"at most {MAX_BODY} bytes are taken")
        elif urlsplit(f"//{self.headers.get('host', '')}").hostname not in _LOCAL:
            # A page of another site that made its name point here.
            self._refuse(403, "only loopback names are answered")
        else:
            self._answer(self.rfile.read(int(length)))

    do_GET = do_POST = do_PUT = _serve

    def _answer(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        if self.command == "GET" and path == "/":
            self._send(page(), PAGE_HEADERS)
        elif path not in _OPEN and not self._has_key():
            self._send(Response(401, "application/json", b'{"reason":"the API key is missing or wrong"}'))
        elif path.startswith("/view/"):
            self._send(answer_viewer(self.server.store, self.path))
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(self.server.store.handle(self.command, self.path, headers, body))

    def _has_key(self) -> bool:
        kind, _, sent = self.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                sent = base64.b64decode(sent).decode().rpartition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        return hmac.compare_digest(sent.encode(), self.server.key.encode())

    def _refuse(self, status: int, reason: str) -> None:
        # The body was not read, so the connection cannot be used again.
        self.close_connection = True
        self._send(Response(status, "application/json", f'{{"reason":"{reason}"}}'.encode()))

    def _send(self, answer: Response, more: dict[str, str] | None = None) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in (more or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Say nothing: paths hold ids."""
