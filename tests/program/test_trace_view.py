"""Tests of lists, trees, persona histories, exports and the trace page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from program.errors import StoreError
from program.spans import about, span
from program.tracing.cli import app
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import open_tracer, store_path
from program.tracing.view.page.build import export_page
from program.tracing.view.page.routes import answer_page
from program.tracing.view.reader import diff_lines, find_trace, list_traces, persona_history, show_trace

EVIL = "bob </script><img src=x onerror=alert(1)>"


def step(before: str, after: str, candidate: str, accept: bool, reason: str) -> dict[str, Any]:
    return {
        "number": 1,
        "persona_before": before,
        "candidate": candidate,
        "persona_after": after,
        "simulations": [
            {"interaction_id": "i1", "query": "at night?", "truth": "jazz", "answer": "rock", "score": 0.0}
        ],
        "feedback": [{"interaction_id": "i1", "text": "The user hears jazz at night.", "skipped": ""}],
        "decision": {"accept": accept, "reason": reason, "numbers": {"before": 0.0, "after": 1.0}},
    }


def align(first: str, second: str) -> None:
    with span("align"):
        with span("step", number=1) as trace:
            trace.output(step=step(first, second, second, True, "agreement rose"))
        with span("step", number=2) as trace:
            trace.output(step=step(second, second, "Worse.", False, "agreement did not rise"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    with open_tracer("local", home=folder):
        with about(user_id="ana", run_id="run-1"):
            align("You play music.", "You play music.\nJazz at night.")
            with span("persona", version=3, source="rollback", why="undone", text="You play music."):
                pass
        with about(user_id=EVIL, run_id="run-2"):
            align("You cook.", "You cook well.")
            with pytest.raises(ValueError, match="broke"), span("ask", query=EVIL), span("agent"):
                raise ValueError("broke")
    return folder


@pytest.fixture
def store(home: Path) -> Iterator[TraceStore]:
    opened = TraceStore(store_path(home))
    yield opened
    opened.close()


@pytest.fixture
def trace(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(home))
    return lambda *words: CliRunner().invoke(app, list(words))


def test_traces_are_listed_newest_first_and_filtered(store: TraceStore) -> None:
    assert [line.name for line in list_traces(store)] == ["ask", "align", "persona", "align"]
    assert [line.name for line in list_traces(store, limit=2, offset=1)] == ["align", "persona"]
    assert [line.user_id for line in list_traces(store, name="align")] == [EVIL, "ana"]
    assert [line.run_id for line in list_traces(store, run_id="run-1")] == ["run-1", "run-1"]
    (failed,) = list_traces(store, failed=True)
    assert (failed.name, failed.status) == ("ask", "error")


def test_find_trace_accepts_a_prefix_of_any_call_id(store: TraceStore) -> None:
    newest = list_traces(store)[0]
    child = show_trace(store, newest.trace_id).children[0].line
    assert find_trace(store, child.id[:13]) == find_trace(store, "last") == newest.trace_id
    for prefix in ("", "zz", "0' OR 1"):
        with pytest.raises(StoreError, match="trace list"):
            find_trace(store, prefix)


def test_trace_tree_has_the_decision_of_each_step(store: TraceStore) -> None:
    tree = show_trace(store, list_traces(store, user_id="ana", name="align")[0].trace_id)
    assert [(c.line.title, (c.decision or {}).get("accept")) for c in tree.children] == [
        ("step 1", True),
        ("step 2", False),
    ]


def test_persona_history_numbers_texts_by_first_appearance(store: TraceStore) -> None:
    history = persona_history(store, "ana")
    assert [(c.number, c.parent, c.source, c.changed) for c in history] == [
        (1, None, "start", True),
        (2, 1, "step", True),
        (2, 2, "step", False),
        (1, None, "rollback", True),
    ]
    assert history[1].text == "You play music.\nJazz at night."
    assert history[1].detail["feedback"][0]["text"] == "The user hears jazz at night."
    assert diff_lines(history[0].text, history[1].text) == [
        "@@ -1 +1,2 @@",
        " You play music.",
        "+Jazz at night.",
    ]
    assert persona_history(store, "nobody") == []


def test_commands_list_show_and_compare_traces(trace: Any) -> None:
    lines = json.loads(trace("list", "--json", "--user", "ana").output)
    assert [line["name"] for line in lines] == ["persona", "align"]
    assert "failed" in trace("list", "--failed").output
    tree = trace("show", lines[1]["trace_id"][:8]).output
    assert "step 1" in tree
    assert "accepted: agreement rose" in tree
    assert "rejected: agreement did not rise" in tree
    diff = trace("diff", "ana", "1", "2").output
    assert "+Jazz at night." in diff
    assert "i1: The user hears jazz at night." in diff


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "zz"], "no trace 'zz'"),
        (["diff", "nobody"], "no traced persona for user 'nobody'"),
        (["diff", "ana", "1", "9"], "choose from 1, 2"),
    ],
)
def test_missing_trace_or_persona_reports_one_line_error(trace: Any, words: list[str], message: str) -> None:
    error = trace(*words).exception
    assert isinstance(error, StoreError)
    assert message in str(error)


def test_missing_trace_file_reports_how_to_create_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path))
    error = CliRunner().invoke(app, ["list"]).exception
    assert isinstance(error, StoreError)
    assert "no traces yet" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_exports_are_private_files_with_the_selected_traces(trace: Any, tmp_path: Path) -> None:
    assert trace("export", str(tmp_path / "a.jsonl"), "--format", "jsonl", "--user", "ana").exit_code == 0
    calls = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {call["attributes"]["user_id"] for call in calls} == {"ana"}
    assert len(calls) == 4
    assert trace("export", str(tmp_path / "a.html"), "--user", "ana").exit_code == 0
    assert stat.S_IMODE((tmp_path / "a.html").stat().st_mode) == 0o600
    page = (tmp_path / "a.html").read_text()
    assert "Jazz at night." in page
    assert "bob" not in page


def test_page_loads_nothing_from_outside_and_allows_only_its_own_script(store: TraceStore) -> None:
    page = export_page(store)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy[1]
    assert re.findall(r"""(?:src|href|action)=["'](?!#|data:)[^"']*""", page) == []
    assert "url(" not in page
    assert "@import" not in page


def test_user_text_cannot_become_markup_in_the_page(store: TraceStore) -> None:
    page = export_page(store)
    assert "<img" not in page
    assert page.count("</script>") == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/view/users", 200),
        ("/view/users?search=an&limit=1", 200),
        ("/view/runs", 200),
        ("/view/traces?user=ana&failed=1", 200),
        ("/view/personas?user=ana", 200),
        ("/view/nothing", 404),
        ("/view/trace?id=zz", 404),
        ("/view/call?id=zz", 404),
        ("/view/trace", 400),
        ("/view/users?limit=many", 400),
    ],
)
def test_page_routes_return_data_or_an_error_status(store: TraceStore, path: str, status: int) -> None:
    assert answer_page(store, path).status == status


def test_page_counts_traces_of_users_and_runs(store: TraceStore) -> None:
    users = json.loads(answer_page(store, "/view/users").body)
    assert [(u["user_id"], u["traces"], u["failed"]) for u in users] == [("ana", 2, 0), (EVIL, 2, 1)]
    runs = json.loads(answer_page(store, "/view/runs").body)
    assert [(r["run_id"], r["traces"], r["users"], r["failed"]) for r in runs] == [
        ("run-2", 2, 1, 1),
        ("run-1", 2, 1, 0),
    ]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("", [">ana<", "bob &lt;/script&gt;&lt;img"]),
        ("#/user/ana", ["Persona #2", "accepted", "agreement rose", "rejected"]),
        (
            "#/version/ana/1",
            ["Jazz at night.", "The user hears jazz at night.", "at night?", "Rollouts", "<ins>"],
        ),
        ("#/failures", [">ask<", ">failed<"]),
        ("#/runs/run-1/run-2", ["run-1 and run-2, by user"]),
    ],
)
def test_browser_renders_the_exported_page(
    store: TraceStore, tmp_path: Path, view: str, expected: list[str]
) -> None:
    (tmp_path / "page.html").write_text(export_page(store))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --virtual-time-budget=2000"
    process = subprocess.run(
        [
            "chromium",
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--dump-dom",
            f"file://{tmp_path / 'page.html'}{view}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    content = process.stdout.split("<main", 1)[1].split("</main>", 1)[0]
    assert [text for text in expected if text not in content] == []
    assert "CONSOLE" not in process.stderr
