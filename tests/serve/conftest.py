"""A server in a thread, in front of a model's server in another one; both on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn

from program.home import home
from program.persona import Persona
from program.serve.app import ServeSettings, make_app
from program.serve.keys import Keys
from program.serve.running import listen
from program.serve.upstream import Upstream
from program.store import UserStore

ANA, BEN = "team/ana é", "ben"


@dataclass
class Model(ThreadingHTTPServer):
    """A model's server: keeps what it is asked, and answers with given bytes."""

    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    # Bytes are sent in pieces of this size.
    piece: int = 1 << 20
    breaks: bool = False
    # The bytes that end the reply come after it is set.
    ends: threading.Event | None = None

    daemon_threads = True

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    __hash__ = object.__hash__

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, headers, json.loads(body) if body else None))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        data, piece = self.server.body, self.server.piece
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.flush()
        if self.server.breaks:
            self.close_connection = True
            return
        if self.server.ends is not None:
            assert self.server.ends.wait(60)
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        pass


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store() -> Iterator[UserStore]:
    """Ana has a persona with a learned line and two interactions; Ben has others."""
    with UserStore(home() / "users.db") as opened:
        fill(opened)
        yield opened


def fill(opened: UserStore) -> None:
    opened.add_user(ANA, task="free-text")
    first = opened.observe(ANA, query="What shall I cook?", response="Lentils, ANASECRET.")
    opened.observe(ANA, query="Which train?", response="The early one.")
    parts = Persona().with_line("Likes pulses.", [first.id])
    opened.add_persona(ANA, "Likes pulses.", source="edit", why="she said so", parts=parts.as_dict())
    opened.add_user(BEN, task="free-text")
    opened.observe(BEN, query="What shall I cook?", response="Steak, BENSECRET.")
    opened.add_persona(BEN, "Ben wants BENPERSONA.", source="edit", why="he said so")


Token = Callable[..., str]


@pytest.fixture
def token() -> Token:
    """Makes a key and returns it; by default for all users, with all rights."""

    def make(user_id: str | None = None, *rights: str) -> str:
        return Keys(home()).create(user_id=user_id, rights=rights or ("read", "write", "admin"))[0]

    return make


Serve = Callable[..., str]


@pytest.fixture(scope="session")
def start() -> Callable[[Any, ExitStack], str]:
    """Serves an app until a stack closes, and returns its address."""
    return _start


def _start(app: Any, stack: ExitStack) -> str:
    """Serve an app until the stack closes, and return its address."""
    listening = stack.enter_context(listen("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()

    stack.callback(stop)
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def serve(store: UserStore, model: Model) -> Iterator[Serve]:
    """Starts a server in front of the model and returns its address."""
    with ExitStack() as stack:

        def begin(**settings: Any) -> str:
            options = {
                "upstream": Upstream(url=model.url, key="sk-upstream"),
                "retrieval": "bm25",
                **settings,
            }
            actions = options.pop("actions", None)
            return _start(make_app(store, home(), ServeSettings(**options), actions), stack)

        yield begin


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client
