"""The trace viewer of the server: all traces for keys of all users, a user's own for others."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from program.home import home
from program.spans import about, span
from program.store import UserStore
from program.tracing.setup import open_tracer

ANA, BEN = "team/ana é", "ben"


@pytest.fixture
def traced() -> None:
    with open_tracer("local", home=home()):
        for user in (ANA, BEN):
            with (
                about(user_id=user, persona_version=1),
                span("ask", query=f"SECRET of {user}"),
                span("agent"),
            ):
                pass
        with span("evaluate"), about(user_id=ANA), span("agent", query="shared"):
            pass


@pytest.fixture
def ask(serve: Any, http: httpx.Client, traced: None) -> Any:
    address = serve()

    def get(key: str, path: str, **params: str) -> httpx.Response:
        return http.get(f"{address}/v1/{path}", params=params, headers={"Authorization": f"Bearer {key}"})

    return get


def own(name: str, user: str = ANA) -> str:
    return f"users/{quote(user, safe='')}/traces/{name}"


def test_a_key_for_all_users_sees_every_trace(ask: Any, token: Any) -> None:
    rows = ask(token(), "traces/traces").json()
    assert [row["user_id"] for row in rows] == [None, BEN, ANA]
    assert ask(token(), "traces/trace", id=rows[1]["id"]).json()["line"]["user_id"] == BEN
    assert [row["user_id"] for row in ask(token(), "traces/users").json()][1:] == [BEN, ANA]


def test_a_key_for_one_user_sees_that_users_traces_alone(ask: Any, token: Any) -> None:
    shared, bens, anas = (row["id"] for row in ask(token(), "traces/traces").json())
    key = token(ANA)
    for query in ({}, {"user": BEN}, {"search": "secret"}):
        assert [row["id"] for row in ask(key, own("traces"), **query).json()] == [anas]
    assert ask(key, own("trace"), id=anas).status_code == 200
    assert ask(key, own("call"), id=anas).json()["inputs"] == {"query": f"SECRET of {ANA}"}
    unknown = ask(key, own("trace"), id="nothing")
    for name, id_ in (("trace", bens), ("call", bens), ("trace", shared), ("call", shared), ("call", "")):
        refused = ask(key, own(name), id=id_)
        assert (refused.status_code, refused.json()["error"]) == (404, unknown.json()["error"])
    for name in ("users", "runs", "nothing"):
        assert ask(key, own(name)).status_code == 403
    for path in ("traces/traces", own("traces", BEN)):
        assert ask(key, path).status_code == 403


def test_the_viewer_shows_the_current_persona_with_its_versions(
    ask: Any, token: Any, store: UserStore
) -> None:
    store.rollback(ANA, 1)
    persona = ask(token(ANA), own("persona")).json()
    assert (persona["version"], persona["source"]) == (2, "rollback")
    assert persona["lines"][0]["evidence"][0]["response"].endswith("ANASECRET.")
    assert [row["label"] for row in ask(token(ANA), own("personas")).json()] == ["v1", "v2"]


def test_the_page_of_the_viewer_has_no_data(serve: Any, http: httpx.Client) -> None:
    page = http.get(f"{serve()}/traces")
    assert page.headers["x-frame-options"] == "DENY"
    assert '<script type="application/json" id="data">null</script>' in page.text


def test_without_traces_the_viewer_says_how_to_make_some(serve: Any, http: httpx.Client, token: Any) -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    refused = http.get(f"{serve()}/v1/traces/traces", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_traces")
    assert not (home() / "traces.db").exists()
