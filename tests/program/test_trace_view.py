"""Tests of lists, trees, persona histories, exports and the trace page."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
import shutil
import sqlite3
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from program.errors import StoreError
from program.spans import about, span
from program.tracing.cli import app
from program.tracing.server.calls import write_start
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, open_tracer, store_path
from program.tracing.view.page.html import export_page
from program.tracing.view.page.json_routes import answer_page
from program.tracing.view.personas import diff_lines, persona_history
from program.tracing.view.reader import (
    CallLine,
    CallNode,
    call_line,
    export_calls,
    find_trace,
    list_traces,
    show_trace,
)
from program.tracing.view.terminal import persona_diff, trace_tree, traces_table

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
            with span("persona", source="rollback", why="undone", text="You play music."):
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
    flags += " --disable-dev-shm-usage"
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
        timeout=180,
        check=True,
    )
    content = process.stdout.split("<main", 1)[1].split("</main>", 1)[0]
    assert [text for text in expected if text not in content] == []
    assert "CONSOLE" not in process.stderr


def line(**fields: Any) -> CallLine:
    values: dict[str, Any] = {
        "id": "c1",
        "trace_id": "0123456789",
        "parent_id": None,
        "name": "lm",
        "title": "",
        "user_id": None,
        "run_id": None,
        "started": "2026-01-02T03:04:05.600000+00:00",
        "seconds": 1.234,
        "status": "success",
        "model_calls": 1,
        "tokens": 1500,
        "usd": 0.0,
        "unpriced": 0,
    }
    return CallLine(**{**values, **fields})


def printed(item: Any) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(item)
    return console.export_text()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "1.23 1 1,500 $0.0000 ok"),
        ({"usd": 0.5}, "1.23 1 1,500 $0.5000 ok"),
        ({"usd": 0.5, "unpriced": 2}, "1.23 1 1,500 $0.5000+ ok"),
        ({"unpriced": 2}, "1.23 1 1,500 ok"),
        ({"tokens": 0, "model_calls": 0}, "1.23 ok"),
        ({"seconds": None, "status": "running"}, "1 1,500 $0.0000 running"),
        ({"status": "descendant_error"}, "1.23 1 1,500 $0.0000 failed below"),
    ],
)
def test_table_shows_known_numbers_only(fields: dict[str, Any], text: str) -> None:
    row = printed(traces_table([line(**fields)])).splitlines()[1]
    assert " ".join(row.split()) == f"01234567 lm 01-02 03:04:05 {text}"


def test_tree_names_each_span_once_and_sums_model_calls() -> None:
    child = CallNode(line=line(name="step", title="step 2", model_calls=3, status="interrupted"))
    tree = printed(trace_tree(CallNode(line=line(name="lm", title="gpt", tokens=0), children=(child,))))
    assert [row.strip(" └─").rstrip() for row in tree.splitlines()] == [
        "lm gpt  1.23s",
        "step 2  1.23s  3 model calls, 1,500 tokens $0.0000  interrupted",
    ]


def test_markup_in_user_ids_is_printed_as_text() -> None:
    assert "[bold]ana[/]" in printed(traces_table([line(user_id="[bold]ana[/]")]))


def test_equal_personas_have_no_diff(store: TraceStore) -> None:
    first = persona_history(store, "ana")[0]
    assert printed(persona_diff(first, first, [])).strip() == "(the texts are equal)"


def test_skipped_feedback_shows_its_reason(store: TraceStore) -> None:
    change = persona_history(store, "ana")[1]
    detail = {"feedback": [{"interaction_id": "i9", "text": "", "skipped": "correct answer"}]}
    skipped = dataclasses.replace(change, detail=detail)
    assert "i9: (none: correct answer)" in printed(persona_diff(change, skipped, [skipped]))


@given(st.lists(st.sampled_from(["a", "b", "c"])), st.lists(st.sampled_from(["a", "b", "c"])))
def test_diff_contains_exactly_the_removed_and_added_lines(before: list[str], after: list[str]) -> None:
    lines = diff_lines("\n".join(before), "\n".join(after))
    removed, added = (Counter(row[1:] for row in lines if row[0] == sign) for sign in "-+")
    texts = Counter("\n".join(before).splitlines()), Counter("\n".join(after).splitlines())
    texts[0].subtract(removed)
    texts[0].update(added)
    assert +texts[0] == texts[1]


def test_call_with_an_unreadable_exception_is_an_error_and_not_interrupted() -> None:
    record = {
        "id": "c1",
        "trace_id": "t1",
        "parent_id": None,
        "display_name": None,
        "attributes": {},
        "started_at": "2026-01-02T03:04:05+00:00",
        "summary": {"weave": {"status": "error", "trace_name": "op", "latency_ms": None}},
        "exception": "not JSON",
    }
    assert call_line(record).status == "error"
    assert call_line({**record, "exception": '{"type": "Interrupted"}'}).status == "interrupted"
    assert call_line(record).seconds is None


def test_ambiguous_prefix_is_rejected(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "t.db")
    for id_ in ("abc1", "abc2"):
        store.call_start(
            {"project_id": LOCAL_PROJECT, "id": id_, "trace_id": id_, "op_name": "ask", "started_at": 1.0}
        )
    assert find_trace(store, "abc2") == "abc2"
    with pytest.raises(StoreError, match="more than one trace 'abc'"):
        find_trace(store, "abc")
    store.close()


def test_long_export_reads_all_pages(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "t.db")
    with store.database.writing() as db:
        for n in range(1001):
            start = {"project_id": LOCAL_PROJECT, "id": f"c{n:04}", "trace_id": "t", "op_name": "ask"}
            write_start(store.database, db, {**start, "started_at": float(n)})
    assert [call["id"] for call in export_calls(store)] == [f"c{n:04}" for n in range(1001)]
    assert list(export_calls(store, trace_id="other")) == []
    store.close()


def test_page_limits_are_capped_and_offsets_never_negative(store: TraceStore) -> None:
    def users(query: str) -> list[str]:
        return [user["user_id"] for user in json.loads(answer_page(store, f"/view/users?{query}").body)]

    assert users("limit=100000") == users("limit=-5&offset=-5") + users("") == ["ana", EVIL]
    assert users("limit=1&offset=1") == [EVIL]
    assert users("search=AN") == []
    assert users("search=an") == ["ana"]


def test_page_route_reports_a_broken_store_without_user_text(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("disk image is malformed near my secret")

    monkeypatch.setattr(TraceStore, "users", fail)
    response = answer_page(store, "/view/users")
    assert (response.status, json.loads(response.body)) == (
        500,
        {"reason": "the trace store failed: OperationalError"},
    )


def test_exported_page_of_one_trace_has_only_its_calls(store: TraceStore) -> None:
    trace_id = list_traces(store, user_id="ana", name="align")[0].trace_id
    page = export_page(store, trace_id=trace_id)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [trace["trace_id"] for trace in data["traces"]] == [trace_id]
    assert data["runs"] == []
    names = {"users", "runs", "traces", "persona", "personas", "trace", "call"}
    assert {key.split("?")[0] for key in data} == names
    calls = [value for key, value in data.items() if key.startswith("call?")]
    assert {call["trace_id"] for call in calls} == {trace_id}
    assert len(calls) == 3


def test_export_of_an_unknown_trace_writes_no_file(trace: Any, tmp_path: Path) -> None:
    result = trace("export", str(tmp_path / "a.html"), "--trace", "zz")
    assert isinstance(result.exception, StoreError)
    assert not (tmp_path / "a.html").exists()


def test_diff_as_json_has_the_diff_and_the_steps(trace: Any) -> None:
    diff = json.loads(trace("diff", "ana", "1", "2", "--json").output)
    assert diff["diff"] == ["@@ -1 +1,2 @@", " You play music.", "+Jazz at night."]
    assert [step["source"] for step in diff["steps"]] == ["step"]
