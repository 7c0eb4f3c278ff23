"""Tests of `personaagent why`: the persona line by line, and one answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import personaagent
from program.cli.options import guarded
from program.persona import first_persona
from program.spans import about, span
from program.store import UserStore
from program.tracing.setup import open_tracer
from program.why import explain

KIND = "Calls heists action."
TEA = "Drinks mint tea."
NUMBERS = {"n": 8.0, "n_plus": 8.0, "n_minus": 0.0}


class Printed(NamedTuple):
    code: int
    out: str
    err: str


def decision(outcome: str, reason: str) -> dict[str, Any]:
    return {"accept": outcome != "refused", "reason": reason, "numbers": NUMBERS, "outcome": outcome}


def record(**more: Any) -> dict[str, Any]:
    """The record of an alignment that learned a line from one of two feedbacks, and refused another."""
    kept = decision("provisional", "a gain is likely")
    checks = [
        {"changes": ["+ Likes opera."], "decision": decision("refused", "no gain")},
        {"changes": [f"+ {KIND}"], "decision": kept},
    ]
    feedback = [
        {"interaction_id": "f1", "text": "A heist is action for her.", "skipped": ""},
        {"interaction_id": "f2", "text": "", "skipped": "the answer was right"},
    ]
    rollouts = [{"interaction_id": "f1", "answer": "comedy"}, {"interaction_id": "f2", "answer": "action"}]
    step = {"decision": kept, "feedback": feedback, "simulations": rollouts, "checks": checks}
    return {"steps": [step], **more}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path))
    with UserStore(tmp_path / "users.db") as users:
        users.add_user("ana", task="free-text")
        for query in ("A heist in Rome", "Two thieves", "Which tea?"):
            users.observe("ana", query=query, response="action")
        ids = [item.id for item in users.interactions("ana")]
        first = first_persona()
        users.add_persona("ana", first.render([]), source="initial", why="new", parts=first.as_dict())
        learned = first.with_line(KIND, [ids[0]])
        done = json.loads(json.dumps(record()).replace('"f1"', f'"{ids[0]}"').replace('"f2"', f'"{ids[1]}"'))
        run = users.start_alignment("ana", {})
        users.finish_alignment("ana", run, done, (learned.render([]), "a gain"), parts=learned.as_dict())
        yield users


@pytest.fixture
def why(store: UserStore, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> Printed:
        code = guarded(lambda: personaagent.command_line()(["why", *words]))
        return Printed(code, *capsys.readouterr())

    return call


def test_line_leads_to_feedback_interaction_version_and_decision(why: Any, store: UserStore) -> None:
    rome = store.interactions("ana")[0].id
    assert why("ana").out.splitlines() == [
        f"v2, the current persona, provisional: alignment of {_at(store, 2)} UTC, a gain",
        f"{KIND}  (learned, since v2)",
        f"    feedback  {rome}: A heist is action for her.",
        f"    rests on  {rome}: A heist in Rome → action",
        "    decided   v2: provisional, a gain is likely (n 8, n_plus 8, n_minus 0)",
    ]


def _at(store: UserStore, version: int) -> str:
    return f"{store.persona_history('ana')[version - 1].created_at:%Y-%m-%d %H:%M}"


def test_line_keeps_its_reasons_through_an_edit_and_a_rollback(store: UserStore) -> None:
    parts = first_persona().with_line(TEA, [store.interactions("ana")[2].id])
    store.add_persona("ana", parts.render([]), source="edit", why="she said so", parts=parts.as_dict())
    (tea,) = explain(store, "ana").lines or ()
    assert (tea.since, tea.feedback, tea.decision) == (3, (), None)
    store.rollback("ana", 2)
    back = explain(store, "ana")
    assert (back.cause.source, back.outcome) == ("rollback", "")
    (kind,) = back.lines or ()
    assert (kind.since, kind.decision) == (2, decision("provisional", "a gain is likely"))
    assert [text for _, text in kind.feedback] == ["A heist is action for her."]


def test_free_text_that_a_person_corrected_still_stands_beside_the_correction(store: UserStore) -> None:
    store.add_persona("ana", "Be brief.\nLikes rain.", source="edit", why="she wrote it")
    store.correct("ana", line="Likes rain.", text="Hates rain.")
    lines = explain(store, "ana").lines or ()
    assert [(line.text, line.since) for line in lines] == [("Be brief.", 0), ("Hates rain.", 4)]
    assert [line.origin.partition(" on ")[0] for line in lines] == [
        "written freely",
        "corrected by the person",
    ]
    assert [line.decision for line in lines] == [None, None]


def test_review_by_later_interactions_is_what_the_gate_says_now(store: UserStore, why: Any) -> None:
    run = store.start_alignment("ana", {})
    store.finish_alignment("ana", run, {"review": decision("confirmed", "it held")})
    assert explain(store, "ana").outcome == "confirmed"
    assert explain(store, "ana", 1).outcome == ""
    assert "Later interactions: confirmed, it held" in why("ana").out


def test_free_rewrite_shows_its_feedback_with_what_the_agent_had_said(store: UserStore, why: Any) -> None:
    run = store.start_alignment("ana", {})
    rome = store.interactions("ana")[0].id
    step = {
        "decision": {"accept": True, "reason": "always"},
        "feedback": [{"interaction_id": rome, "text": "Say action.", "skipped": ""}],
        "simulations": [{"interaction_id": rome, "answer": "comedy"}],
    }
    store.finish_alignment("ana", run, {"steps": [step]}, ("Say action.", "always"))
    lines = why("ana").out.splitlines()
    assert lines[1:] == [
        "It was written freely: nothing is known of what each line rests on.",
        f"    feedback  {rome}: Say action.",
        f"              {rome}: A heist in Rome → action (the agent said comedy)",
        "    decided   v3: accepted, always",
    ]


def ask(query: str, answer: str, prompt: str, **attributes: Any) -> None:
    """Trace an answer as `personaagent ask` does."""
    with about(user_id="ana", **attributes), span("ask", query=query), span("agent", query=query) as agent:
        with span("predict"), span("lm", messages=[{"role": "system", "content": prompt}]):
            pass
        step = {
            "tool": "search_memory",
            "arguments": {"query": "heist"},
            "interaction_ids": [attributes["shown"]],
        }
        agent.output(finished={"answer": answer, "steps": [step]})


@pytest.fixture
def answered(store: UserStore, tmp_path: Path) -> None:
    shown = store.interactions("ana")[1].id
    with open_tracer("local", home=tmp_path):
        ask("An old heist?", "action", f"Rules.\n- {KIND}", persona_version=2, shown=shown)
        ask("A new heist?", "Action!", "Rules.", persona_version=2, shown="gone")
        ask("And tea?", "mint", "Rules.", shown=shown)


@pytest.mark.usefixtures("answered")
def test_answer_leads_to_what_it_was_shown_and_the_lines_of_its_persona(why: Any, store: UserStore) -> None:
    thieves, said = store.interactions("ana")[1].id, why("ana", "action").out.splitlines()
    assert said[:2] == ["asked      An old heist?", "answered   action"]
    assert said[3:5] == ["looked up  search_memory(heist)", f"    {thieves}: Two thieves → action"]
    assert said[5].startswith("persona    v2, still the current one, provisional")
    assert said[6] == f"{KIND}  (learned, since v2)"
    assert "is not recorded" in said[-2]
    assert said[-1].startswith("All messages: `personaagent trace show ")


@pytest.mark.usefixtures("answered")
def test_answer_says_what_is_not_recorded(why: Any, store: UserStore) -> None:
    latest = why("ana", "last").out
    assert "asked      And tea?" in latest
    assert "persona    not recorded" in latest
    changed = why("ana", "ACTION!").out
    assert "    gone: forgotten" in changed
    assert "not in the prompt word by word" in changed
    store.add_persona("ana", "By hand.", source="edit", why="she said so")
    assert "persona    v2, now it is v3" in why("ana", "ACTION!").out


@pytest.mark.usefixtures("answered")
def test_answer_is_found_by_its_trace_id(why: Any) -> None:
    found = json.loads(why("ana", "mint", "--json").out)
    assert json.loads(why("ana", found["trace_id"][:8], "--json").out) == found
    assert (found["answer"], found["persona_version"], found["lines"]) == ("mint", None, None)
    line = json.loads(why("ana", "action", "--json").out)["lines"][0]
    assert (line["text"], line["since"], line["in_prompt"]) == (KIND, 2, True)


@pytest.mark.usefixtures("answered")
def test_answer_that_is_not_traced_is_one_line(why: Any) -> None:
    failed = why("ana", "opera")
    assert failed.code == 1
    assert failed.err.startswith("error: no answer 'opera' of user 'ana' is traced")


def test_answer_without_any_trace_is_one_line(why: Any) -> None:
    assert why("ana", "action").err.startswith("error: no traces yet")
