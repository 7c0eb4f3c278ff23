"""Tests of the texts in `trace show`, of the search by question, and of the numbers of personas in traces."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from program.spans import about, span
from program.store import UserStore
from program.tracing.cli import app
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import open_tracer, store_path
from program.tracing.view.personas import PersonaChange, persona_history
from program.tracing.view.reader import CallNode, list_traces, show_trace
from program.tracing.view.terminal import trace_tree

QUESTION = "What shall I cook\nfor \u202eten?"


def ask(query: str, answer: str) -> None:
    with span("ask", query=query) as asked, span("agent", query=query) as agent:
        with span("tool", action={"tool": "search_memory", "query": "dinner"}) as tool:
            tool.output(observation={"text": "1. lentils\n2. soup"})
        agent.output(finished={"answer": answer})
        asked.output(answer=answer)


def step(number: int, before: str, after: str, candidate: str = "") -> None:
    accept = after != before
    with span("step", number=number) as trace:
        decision = {"accept": accept, "reason": "agreement rose" if accept else "no gain", "numbers": {}}
        trace.output(
            step={
                "number": number,
                "persona_before": before,
                "candidate": candidate or after,
                "persona_after": after,
                "simulations": [],
                "feedback": [],
                "decision": decision,
            }
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    with open_tracer("local", home=folder), about(user_id="ana", run_id="run-1"):
        ask(QUESTION, "Lentils. " * 100)
        with span("align"):
            rollout = {"query": "Which tea?", "answer": "", "truth": "Mint.", "error": "no answer in ''"}
            with span("simulate", interaction_id="i1") as trace:
                trace.output(simulation=rollout)
            with span("textual_loss", interaction_id="i1") as trace:
                trace.output(feedback="She drinks mint tea.")
        with (
            pytest.raises(ValueError, match="broke"),
            span("ask", query="Broken?"),
            span("agent"),
            span("lm"),
        ):
            raise ValueError("broke\u202e")
    return folder


@pytest.fixture
def store(home: Path) -> Iterator[TraceStore]:
    opened = TraceStore(store_path(home))
    yield opened
    opened.close()


@pytest.fixture
def trace(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(home))
    return lambda *words: CliRunner().invoke(app, list(words)).output


def of(store: TraceStore, query: str) -> CallNode:
    return show_trace(store, list_traces(store, query=query)[0].trace_id, texts=True)


def test_what_was_asked_and_answered_stands_once_and_whole(store: TraceStore) -> None:
    root = of(store, "cook")
    assert dict(root.texts) == {"asked": QUESTION, "answered": "Lentils. " * 100}
    (agent,) = root.children
    assert agent.texts == {}
    assert dict(agent.children[0].texts) == {"tool": "search_memory(dinner)", "saw": "1. lentils\n2. soup"}


def test_rollout_shows_the_true_answer_the_reason_of_its_failure_and_the_feedback(store: TraceStore) -> None:
    (align,) = list_traces(store, name="align")
    simulate, loss = show_trace(store, align.trace_id, texts=True).children
    assert dict(simulate.texts) == {"asked": "Which tea?", "true": "Mint.", "failed": "no answer in ''"}
    assert dict(loss.texts) == {"feedback": "She drinks mint tea."}


def test_failure_is_shown_at_the_call_in_which_it_began(store: TraceStore) -> None:
    root = of(store, "broken")
    assert "failed" not in root.texts
    assert root.children[0].children[0].texts["failed"] == "ValueError: broke\u202e"


def test_texts_are_one_bounded_line_each_without_control_characters(trace: Any, store: TraceStore) -> None:
    shown = trace("show", of(store, "cook").line.trace_id)
    assert "asked    What shall I cook for \\u202eten?" in shown
    console = Console(width=1000, record=True, file=io.StringIO())
    console.print(trace_tree(of(store, "cook")))
    (answered,) = [line for line in console.export_text().splitlines() if line.startswith("answered")]
    assert 200 < len(answered) < 320
    assert answered.endswith("…")
    assert "failed   ValueError: broke\\u202e" in trace("show", of(store, "broken").line.trace_id)


def test_no_texts_gives_the_short_form(trace: Any, store: TraceStore) -> None:
    trace_id = of(store, "cook").line.trace_id
    assert "Lentils" not in trace("show", trace_id, "--no-texts")
    assert json.loads(trace("show", trace_id, "--no-texts", "--json"))["texts"] == {}


def test_traces_are_found_by_a_part_of_the_question_in_any_case(trace: Any) -> None:
    found = [json.loads(trace("list", "--json", "--query", text)) for text in ("COOK", "cook' OR 1=1", "")]
    assert [[row["name"] for row in rows] for rows in found] == [["ask"], [], ["ask", "ask"]]
    assert json.loads(trace("list", "--json", "--query", "cook", "--user", "bob")) == []
    assert json.loads(trace("list", "--json", "--query", "cook", "--failed")) == []


# Numbers of personas


def history_of(folder: Path, *, with_store: bool = True) -> list[PersonaChange]:
    """Trace two alignments of a stored user with a hand edit and a rollback between; return the history."""
    with UserStore(folder / "users.db") as users:
        users.add_user("ana", task="free-text")
        users.add_persona("ana", "Brief.", source="initial", why="new")
        with open_tracer("local", home=folder), about(user_id="ana"):
            run = users.start_alignment("ana", {})
            with about(persona_version=1, alignment_id=run), span("align"):
                step(1, "Brief.", "Brief, kind.")
                step(2, "Brief, kind.", "Brief, kind, true.")
            users.finish_alignment("ana", run, {}, ("Brief, kind, true.", "agreement rose"))
            users.add_persona("ana", "By hand.", source="edit", why="she wrote it")
            users.rollback("ana", 1)
            run = users.start_alignment("ana", {})
            with about(persona_version=4, alignment_id=run), span("align"):
                step(1, "Brief.", "Brief.", "Worse.")
            users.finish_alignment("ana", run, {})
            with about(persona_version=4), span("align"):  # it fails before it is stored
                step(1, "Brief.", "Never stored.")
        versions = users.persona_history("ana") if with_store else []
    traces = TraceStore(store_path(folder))
    try:
        return persona_history(traces, "ana", versions)
    finally:
        traces.close()


def test_numbers_are_the_versions_of_the_store_with_edits_and_rollbacks(tmp_path: Path) -> None:
    changes = history_of(tmp_path)
    assert [(change.label, change.parent, change.source, change.changed) for change in changes] == [
        ("v1", None, "initial", True),
        ("no version", 1, "step", True),
        ("v2", None, "step", True),
        ("v3", 2, "edit", True),
        ("v4", 3, "rollback", True),
        ("v4", 4, "step", False),
        ("no version", 4, "step", True),
    ]
    assert [change.text for change in changes][2:5] == ["Brief, kind, true.", "By hand.", "Brief."]
    assert changes[3].detail == {"why": "she wrote it"}
    assert [bool(change.trace_id) for change in changes] == [False, True, True, False, False, True, True]


def test_numbers_without_the_store_are_those_that_the_calls_name(tmp_path: Path) -> None:
    changes = history_of(tmp_path, with_store=False)
    assert [(change.label, change.source) for change in changes] == [
        ("v1", "start"),
        ("no version", "step"),
        ("no version", "step"),
        ("v4", "start"),
        ("v4", "step"),
        ("no version", "step"),
    ]


def test_commands_do_not_make_a_store_to_look_into(trace: Any, home: Path) -> None:
    trace("diff", "ana")
    assert not (home / "users.db").exists()
