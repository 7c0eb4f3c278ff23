"""The HTTP server: serves the local trace store, and the page that shows it, on loopback.

Another process uses it with plain ``weave.init`` if ``WANDB_BASE_URL`` is the address and
``WANDB_API_KEY`` the key. All data needs the key; only the empty page does not. The body of a request
is read after its key was checked.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import secrets
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from program.errors import ConfigError
from program.tracing.server.routes import MAX_BODY, Response
from program.tracing.server.trace_store import TraceStore
from program.tracing.view.page.html import PAGE_HEADERS, empty_page
from program.tracing.view.page.json_routes import answer_page

if TYPE_CHECKING:
    from program.store import UserStore

logger = logging.getLogger("personaagent.program.tracing")

MAX_THREADS = 128
"""Connections served at once. Weave's client opens many; further ones are answered with 503."""
READ_SECONDS = 60.0
"""Time in which a request must arrive, from the answer to the one before it on its connection."""

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
)
_LOCAL = ("127.0.0.1", "localhost", "::1")
# These return no data. Weave's client calls some of them before it sends a key.
_WITHOUT_KEY = (
    "/server_info",
    "/traces/server_info",
    "/traces/agents/otel/v1/traces",
    "/agents/otel/v1/traces",
)


MAX_OPEN_BODY = 1024 * 1024
"""Largest body, in bytes, of a request that needs no key."""


def _host_name(hosts: list[str]) -> str | None:
    """Return the name in the only Host header; ``None`` if it is missing or not valid."""
    try:
        return urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
    except ValueError:
        return None


def _path(address: str) -> str | None:
    try:
        return urlsplit(address).path
    except ValueError:
        return None


class TraceServer(ThreadingHTTPServer):
    """A server on loopback. Run it with `serve_forever`; stop it with `shutdown`.

    Args:
        store: The open trace file.
        host: A loopback address.
        port: The port; 0 picks a free one (see `address`).
        key: The key that clients must send; random by default.
        users: The users' store, for their personas; ``None`` without it. The caller closes it.

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
        self,
        store: TraceStore,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str | None = None,
        users: UserStore | None = None,
    ) -> None:
        if host not in _LOCAL:
            raise ConfigError(
                f"`host` must be a loopback address, got {host!r}; use a tunnel for remote access"
            )
        self.store, self.users = store, users
        self.key = key or secrets.token_hex(20)
        self._free_threads = threading.BoundedSemaphore(MAX_THREADS)
        self._deadlines: dict[socket.socket, float] = {}
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

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own; refuse it if too many are open."""
        if not self._free_threads.acquire(blocking=False):
            with suppress(OSError):
                request.settimeout(1.0)
                request.sendall(_BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free_threads.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it closes."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free_threads.release()

    def service_actions(self) -> None:
        """Close the connections whose request did not arrive in time; called twice a second."""
        now = time.monotonic()
        for connection, deadline in list(self._deadlines.items()):
            if deadline < now:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing that a client sent."""
        logger.debug("trace server: a connection failed", exc_info=False)

    def expect_request(self, connection: socket.socket) -> None:
        """Start the time in which a request must arrive."""
        self._deadlines[connection] = time.monotonic() + READ_SECONDS

    def end_request(self, connection: socket.socket) -> None:
        """Stop that time: the request arrived, or the connection ends."""
        self._deadlines.pop(connection, None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Names neither Python nor its version.
    server_version, sys_version = "personaagent", ""
    timeout = 60
    server: TraceServer

    def handle_one_request(self) -> None:
        self.server.expect_request(self.connection)
        try:
            super().handle_one_request()
        except OSError:
            # The client went away, or was too slow.
            self.close_connection = True
        finally:
            self.server.end_request(self.connection)

    def handle_expect_100(self) -> bool:
        # `_read_body` tells the client to go on, once the key is checked.
        return True

    def _serve(self) -> None:
        if (refusal := self._problem()) is not None:
            self._refuse(*refusal)
            return
        length = int(self.headers.get("content-length", "0"))
        if length and self.headers.get("expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(length)
        self.server.end_request(self.connection)
        if len(body) < length:
            self._refuse(400, "the body is shorter than Content-Length")
        else:
            self._answer(body)

    do_GET = do_POST = do_PUT = _serve

    def _problem(self) -> tuple[int, str] | None:
        """Return the status and reason to refuse a request; its body is unread."""
        lengths = self.headers.get_all("content-length", ["0"])
        if "transfer-encoding" in self.headers or not (lengths[0].isascii() and lengths[0].isdecimal()):
            return 411, "Content-Length is required"
        if len(lengths) > 1:
            return 400, "Content-Length is given more than once"
        # Another site may have pointed its own name at this address (DNS rebinding).
        if _host_name(self.headers.get_all("host", [])) not in _LOCAL:
            return 403, "the Host header must be a loopback name"
        path = _path(self.path)
        if path is None:
            return 400, "the path is not valid"
        limit = MAX_OPEN_BODY if self._is_open(path) else MAX_BODY
        if len(lengths[0]) > 15 or int(lengths[0]) > limit:
            return 413, f"the limit is {limit} bytes"
        if not self._is_open(path) and not self._has_key():
            return 401, "the API key is missing or wrong"
        return None

    def _is_open(self, path: str) -> bool:
        return path in _WITHOUT_KEY or (self.command == "GET" and path == "/")

    def _answer(self, body: bytes) -> None:
        path = _path(self.path)
        if self.command == "GET" and path == "/":
            self._send(empty_page(), PAGE_HEADERS)
        elif path is not None and path.startswith("/view/"):
            self._send(answer_page(self.server.store, self.path, users=self.server.users))
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
        if status != 401 or self.headers.get("content-length", "0") != "0":
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
