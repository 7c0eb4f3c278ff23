"""Who may do what: a table of every route of the app, and pages of other sites."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from program.memory.interaction import Interaction
from program.persona import first_persona
from program.serve.app import ServeSettings, make_app
from program.serve.keys import RIGHTS, Keys
from program.serve.upstream import Upstream
from program.store import UserStore
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import store_path

OWN, OTHER, UNKNOWN = "own", "other", "unknown"

OPEN = {"GET /", "GET /docs", "GET /traces", "GET /openapi.json", "GET /healthz"}
"""They hold nothing of any user."""
ALL_USERS = {"GET /metrics", "GET /v1/users", "GET /v1/traces/{name}"}
ANY_KEY = {
    "GET /v1/key": "",
    "GET /v1/models": "read",
    "GET /v1/jobs": "read",
    "GET /v1/jobs/{job_id}": "read",
}
CHAT = {"POST /v1/chat/completions", "POST /v1/responses"}
OF_A_USER = {
    "GET /v1/users/{user_id}": "read",
    "GET /v1/users/{user_id}/context": "read",
    "GET /v1/users/{user_id}/costs": "read",
    "GET /v1/users/{user_id}/traces/{name}": "read",
    "GET /v1/users/{user_id}/export": "read",
    "GET /v1/users/{user_id}/persona": "read",
    "GET /v1/users/{user_id}/persona/versions": "read",
    "GET /v1/users/{user_id}/persona/diff": "read",
    "GET /v1/users/{user_id}/persona/why": "read",
    "POST /v1/users/{user_id}/answer": "read",
    "POST /v1/users/{user_id}/interactions": "write",
    "POST /v1/users/{user_id}/persona/rollback": "write",
    "POST /v1/users/{user_id}/persona/correct": "write",
    "POST /v1/users/{user_id}/persona/approve": "write",
    "POST /v1/users/{user_id}/align": "write",
    "DELETE /v1/users/{user_id}": "admin",
    "DELETE /v1/users/{user_id}/interactions/{interaction_id}": "admin",
}
BODIES: dict[str, Any] = {
    "answer": {"query": "q"},
    "interactions": {"query": "q", "response": "r"},
    "rollback": {"version": 1},
    "correct": {"text": "Likes mint."},
    "approve": {"version": 1},
}

KEYS = ["missing", "wrong", "expired", "revoked", "none"]
KEYS += [f"{bound} {right}" for bound in (OWN, OTHER, "all") for right in RIGHTS]


@dataclass
class Server:
    url: str
    app: Any
    keys: dict[str, str]
    client: httpx.Client

    def ask(self, route: str, key: str, user: str, **more: Any) -> httpx.Response:
        method, path = route.split(" ")
        path = path.format(user_id=quote(user), interaction_id="1", job_id="0" * 32, name="persona")
        if route == "DELETE /v1/users/{user_id}":
            # What may be deleted is gone for the next one.
            self.restore()
        headers = {} if key == "missing" else {"Authorization": f"Bearer {self.keys[key]}"}
        headers |= {"X-PersonaAgent-User": user} if route in CHAT else {}
        body = {"messages": [], "input": "q"} if route in CHAT else BODIES.get(path.rpartition("/")[2])
        return self.client.request(method, self.url + path, headers={**headers, **more}, json=body)

    def restore(self) -> None:
        for user in (OWN, OTHER):
            self.store.readmit(user)
            asked = Interaction(id="1", user_id=user, query="q", response="r")
            self.store.append(user, [asked], task="free-text")
            if self.store.persona(user) is None:
                persona = first_persona().with_line(f"{user}SECRET", ["2"])
                self.store.add_persona(
                    user, persona.render([]), source="edit", why="", parts=persona.as_dict()
                )
        for bound in (OWN, OTHER):
            for right in RIGHTS:
                if Keys(self.home).find(self.keys.get(f"{bound} {right}", "")) is None:
                    self.keys[f"{bound} {right}"] = Keys(self.home).create(user_id=bound, rights=[right])[0]

    store: UserStore = None  # type: ignore[assignment]
    home: Path = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("access")
    with ExitStack() as stack:
        store = stack.enter_context(UserStore(home / "users.db"))
        TraceStore(store_path(home)).close()
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=60))
        # Nobody listens there: whoever gets so far is answered with 502.
        app = make_app(store, home, ServeSettings(upstream=Upstream(url="http://127.0.0.1:9/v1"), rate=0))
        made = Server(start(app, stack), app, {}, client, store, home)
        keys = Keys(home)
        revoked, key = keys.create(user_id=None, rights=RIGHTS)
        keys.revoke(key.id)
        expired, key = keys.create(user_id=None, rights=RIGHTS, expires=timedelta(minutes=1))
        path = home / "keys" / f"{key.id}.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "expires_at": "2026-01-01T00:00:00+00:00"})
        )
        made.keys = {
            "wrong": "pa_0123456789ab_" + "x" * 43,
            "expired": expired,
            "revoked": revoked,
            "none": "x",
        }
        for right in RIGHTS:
            made.keys[f"all {right}"] = keys.create(user_id=None, rights=[right])[0]
        made.restore()
        yield made


def routes(app: Any) -> set[str]:
    """Every method and path that the app answers to."""
    found = set()
    for route in app.inner.routes:
        for context in getattr(route, "effective_route_contexts", lambda route=route: [route])():
            path, methods = getattr(context, "path", None), getattr(context, "methods", None)
            found |= {f"{method} {path}" for method in (methods or {"*"}) if method != "HEAD"}
    return found


def test_the_table_has_every_route(server: Server) -> None:
    assert routes(server.app) == OPEN | ALL_USERS | set(ANY_KEY) | CHAT | set(OF_A_USER) | {"* /mcp"}


def expected(route: str, key: str, user: str) -> int:
    """The refusal that a request must get; 0 if it must get none."""
    if route in OPEN:
        return 0
    if key in ("missing", "wrong", "expired", "revoked", "none"):
        return 401
    bound, right = key.split(" ")
    if route in ALL_USERS:
        return 0 if key == "all read" else 403
    needed = OF_A_USER.get(route) or ANY_KEY.get(route) or "read"
    if right != needed and route != "GET /v1/key":
        return 403
    if route in ANY_KEY:
        return 404 if "job_id" in route else 0
    if bound not in ("all", user):
        return 403
    return 404 if user == UNKNOWN else 0


@pytest.mark.parametrize(
    "route", sorted(OPEN | ALL_USERS | set(ANY_KEY) | CHAT | set(OF_A_USER)), ids=lambda route: route
)
def test_access_to(route: str, server: Server) -> None:
    users = (OWN, OTHER, UNKNOWN) if route in OF_A_USER or route in CHAT else (OWN,)
    table = {}
    for key in KEYS:
        for user in users:
            status = server.ask(route, key, user).status_code
            table[key, user] = status if status in (401, 403, 404) else 0
    assert table == {(key, user): expected(route, key, user) for key in KEYS for user in users}


def test_a_refusal_does_not_say_whether_the_user_exists(server: Server) -> None:
    bodies = [
        server.ask("GET /v1/users/{user_id}/persona", "own read", user).json() for user in (OTHER, UNKNOWN)
    ]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/users/own%2F..%2Fother/persona"),
        ("GET", "/v1/users/own/../other/persona"),
        ("GET", "/v1/users/own/persona/../../other/persona"),
        ("GET", "/v1/users//other/persona"),
        ("GET", "/v1/users/other/persona/"),
        ("GET", "//v1/users/other/persona"),
        ("GET", "/v1/users/other%00/persona"),
        ("GET", "/V1/users/other/persona"),
        ("GET", "/v1/users/ot%68er/persona"),
        ("HEAD", "/v1/users/other/persona"),
        ("OPTIONS", "/v1/users/other/persona"),
    ],
)
def test_another_spelling_of_a_path_opens_nothing(method: str, path: str, server: Server) -> None:
    host = server.url.removeprefix("http://")
    name, _, port = host.partition(":")
    key = server.keys["own read"]
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {key}",
        "Connection: close",
    ]
    request = "\r\n".join([*lines, "", ""])
    with socket.create_connection((name, int(port)), timeout=60) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"400", b"403", b"404", b"405")
    assert b"otherSECRET" not in answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "127.0.0.1@evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_origin_can_neither_read_nor_write(headers: dict[str, str], server: Server) -> None:
    for route in sorted(OPEN | ALL_USERS | CHAT | set(OF_A_USER)):
        response = server.ask(route, "all admin", OWN, **headers)
        assert response.status_code in (400, 403), route
        assert "access-control-allow-origin" not in response.headers
        assert "SECRET" not in response.text


def test_a_preflight_is_refused(server: Server) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = server.client.options(f"{server.url}/v1/chat/completions", headers=headers)
    assert response.status_code == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_servers_own_page_may_ask(server: Server) -> None:
    headers = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert server.ask("GET /v1/users", "all read", OWN, **headers).status_code == 200


def test_a_name_must_be_allowed(tmp_path: Path, start: Any) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(UserStore(tmp_path / "users.db"))
        url = start(make_app(store, tmp_path, ServeSettings(hosts=("persona.example",))), stack)
        for host, status in (("persona.example", 200), ("PERSONA.example:8443", 200), ("other.example", 403)):
            assert httpx.get(f"{url}/healthz", headers={"Host": host}, trust_env=False).status_code == status


def test_a_key_is_not_taken_from_the_address_or_a_cookie(server: Server) -> None:
    key = server.keys["all read"]
    for more in (
        {"params": {"key": key, "access_token": key}},
        {"cookies": {"key": key}},
        {"auth": ("", key)},
    ):
        assert httpx.get(f"{server.url}/v1/users", trust_env=False, **more).status_code == 401  # type: ignore[arg-type]
