"""The page about users, in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from program.store import UserStore

ANA = "team/ana é"


def test_the_page_has_no_data_and_runs_nothing_but_its_own_script(serve: Any, http: httpx.Client) -> None:
    response = http.get(f"{serve()}/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for name in ("ana", "Likes", "SECRET"):
        assert name not in response.text.replace("personaagent", "")
    for sink in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "src="):
        assert sink not in response.text


def test_every_route_that_the_page_asks_for_is_there(serve: Any, http: httpx.Client) -> None:
    address = serve()
    described = http.get(f"{address}/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    calls = re.findall(r'(?:ask|change)\("(GET|POST)", [`"]([^`"?]+)', http.get(f"{address}/").text)
    asked = {(method, _route_of(path)) for method, path in calls}
    assert len(asked) > 10
    assert asked - routes == set()


def _route_of(path: str) -> str:
    user = "/v1/users/{user_id}"
    for text, name in (("${userPath(id)}", user), ("${path}", user), ("${job.id}", "{job_id}")):
        path = path.replace(text, name)
    return path


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_a_persona_line_by_line_with_its_evidence(
    serve: Any, token: Any, store: UserStore, tmp_path: Path
) -> None:
    store.observe(ANA, query="<img src=x onerror=alert(1)>", response="r")
    newest = store.interactions(ANA)[-1]
    parts = dict(store.persona(ANA).parts or {})  # type: ignore[union-attr]
    parts["lines"] = [*parts["lines"], {"text": "<b>bold</b>", "interaction_ids": [newest.id], "since": 2}]
    store.add_persona(ANA, "Likes pulses, boldly.", source="alignment", why="a gain is shown", parts=parts)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-dev-shm-usage"
    flags += " --disable-background-networking --disable-component-update --virtual-time-budget=3000"
    # A key for one user opens that user's view.
    address = f"{serve()}/#key={token(ANA)}"
    process = subprocess.run(
        [
            "chromium",
            *flags.split(),
            f"--user-data-dir={tmp_path}",
            "--enable-logging=stderr",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    content = process.stdout.split("<main", 1)[1].split("</main>", 1)[0]
    shown = [
        "Likes pulses.",
        "Lentils, ANASECRET.",
        "&lt;b&gt;bold",
        "&lt;img src=x",
        "a gain is shown",
        "Go back",
        "That is wrong",
        "/traces#/user/",
    ]
    assert [text for text in shown if text not in content] == []
    assert "CONSOLE" not in process.stderr
