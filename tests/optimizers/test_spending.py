"""What alignments add to a user's costs, and what a pinned persona does to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import personaagent
from optimizers import PAPER, UserResult, align_user, align_users
from optimizers.journal import MemoryJournal
from program import UserStore, scripted_lm
from program.console import FAILED
from program.errors import PinnedPersonaError
from program.usage import Usage, UsageTracker, track_usage


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    (tmp_path / "home").mkdir()
    with UserStore(tmp_path / "home" / "users.db") as store:
        for user_id in ("ana", "ben"):
            store.add_user(user_id, task="free-text")
            for number in range(4):
                store.observe(user_id, query=f"question {number}", response=f"answer {number}")
        yield store


def reply(system: str, user: str) -> Any:
    if "critical evaluator" in system:
        return "Be shorter."
    if "refine the system prompt" in system:
        return "Answer briefly."
    if "You maintain the list" in system:
        return {"edits": []}
    if "`action`" in user:
        return {"thought": "", "action": {"tool": "finish", "answer": "an answer"}}
    return {"answer": "an answer"} if "`answer`" in user else "Ana asks short questions."


def instead(words: str, action: Callable[[], Any]) -> Any:
    """A model that does ``action`` before it answers a prompt with these words."""

    def answer(system: str, user: str) -> Any:
        if words in system:
            action()
        return reply(system, user)

    return scripted_lm(answer)


def down() -> None:
    raise dspy.LMServerError("down")


def made(*lms: Any) -> int:
    return sum(len(lm.engine.prompts) for lm in lms)


def test_an_alignment_costs_every_call_that_it_made_and_has_its_agreement(store: UserStore) -> None:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        agent = align_user(store, "ana", PAPER, wikipedia=False)
    (cost,) = store.costs("ana")
    assert (cost.alignments, cost.failed, cost.answers) == (1, 0, 0)
    assert cost.calls == made(lm) > 0
    assert cost.tokens > 0
    assert cost.scored == 3
    assert cost.agreement == pytest.approx(agent.alignment.steps[0].score)
    assert store.costs("ben") == []


def test_what_a_failed_attempt_paid_is_not_counted_again_by_the_one_that_ends(store: UserStore) -> None:
    journal, failing, working = MemoryJournal(), instead("refine the system prompt", down), scripted_lm(reply)
    with dspy.context(lm=failing), pytest.raises(dspy.LMError):
        align_user(store, "ana", PAPER, wikipedia=False, journal=journal)
    failed = store.cost("ana")
    # The call that failed was not answered, and so not paid.
    assert (failed.failed, failed.calls) == (1, made(failing) - 1)
    with dspy.context(lm=working):
        agent = align_user(store, "ana", PAPER, wikipedia=False, journal=journal)
    cost = store.cost("ana")
    assert (cost.alignments, cost.failed) == (1, 1)
    assert cost.calls == made(failing) - 1 + made(working)
    # The record has the whole work; only the profile was paid outside it.
    assert sum(used.calls for used in agent.alignment.usage.values()) == cost.calls - 1


def test_what_a_killed_attempt_paid_is_counted_by_the_one_that_ends(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, killed, working = MemoryJournal(), instead("refine the system prompt", down), scripted_lm(reply)
    monkeypatch.setattr(UserStore, "fail_alignment", lambda *given, **named: None)
    with dspy.context(lm=killed), pytest.raises(dspy.LMError):
        align_user(store, "ana", PAPER, wikipedia=False, journal=journal)
    assert store.costs("ana") == []
    with dspy.context(lm=working):
        align_user(store, "ana", PAPER, wikipedia=False, journal=journal)
    # But for the profile, which no journal has.
    assert store.cost("ana").calls == made(killed) - 1 + made(working) - 1


def test_a_run_around_alignments_counts_their_calls_once(store: UserStore) -> None:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm), track_usage(UsageTracker()) as tracker:
        align_user(store, "ana", PAPER, wikipedia=False)
    assert tracker.total().calls == store.cost("ana").calls == made(lm)


def test_pinned_user_is_refused_before_any_call(store: UserStore) -> None:
    version = store.add_persona("ana", "Be brief.", source="edit", why="w")
    store.pin("ana", version.version)
    lm = scripted_lm(reply)
    with dspy.context(lm=lm), pytest.raises(PinnedPersonaError):
        align_user(store, "ana", PAPER, wikipedia=False)
    assert (made(lm), store.alignments("ana"), store.profile("ana")) == (0, [], None)


def test_alignment_ends_as_failed_if_the_persona_is_pinned_meanwhile(store: UserStore) -> None:
    store.add_persona("ana", "Be brief.", source="edit", why="w")
    lm = instead("refine the system prompt", lambda: store.pin("ana", 1))
    with dspy.context(lm=lm), pytest.raises(PinnedPersonaError):
        align_user(store, "ana", PAPER, wikipedia=False)
    (run,) = store.alignments("ana")
    assert (run.status, run.error.partition(":")[0]) == ("failed", "PinnedPersonaError")
    assert [version.text for version in store.persona_history("ana")] == ["Be brief."]
    assert store.cost("ana").calls == made(lm)


def test_a_run_over_many_skips_the_pinned_ones(store: UserStore) -> None:
    store.add_persona("ana", "Be brief.", source="edit", why="w")
    store.pin("ana", 1)

    async def collect() -> dict[str, UserResult]:
        results = await align_users(store, ["ana", "ben"], PAPER, lm=scripted_lm(reply), wikipedia=False)
        return {result.user_id: result async for result in results}

    results = asyncio.run(collect())
    assert (results["ana"].status, results["ana"].persona_version) == ("skipped", 1)
    assert isinstance(results["ana"].error, PinnedPersonaError)
    assert results["ben"].status == "aligned"


def test_pin_is_an_error_only_to_who_names_the_user(
    store: UserStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for user_id in ("ana", "ben"):
        store.add_persona(user_id, "Be brief.", source="edit", why="w")
        store.pin(user_id, 1)
    monkeypatch.setattr("program.models.resolve.resolve_lm", lambda spec=None: scripted_lm(reply))
    ended = []
    for words in (["--all"], ["ana"]):
        monkeypatch.setattr("sys.argv", ["personaagent", "align", *words, "--trace", "off", "--json"])
        with pytest.raises(SystemExit) as end:
            personaagent.main()
        captured = capsys.readouterr()
        ended.append((end.value.code, json.loads(captured.out), captured.err))
    (all_code, rows, line), (code, (named,), error) = ended
    assert [(row["status"], row["error"]) for row in rows] == [("skipped", None), ("skipped", None)]
    assert [row["notes"] for row in rows] == [["skipped: v1 is pinned"]] * 2
    assert (all_code, code) == (0, FAILED)
    assert line.splitlines()[-1].startswith("0 of 2 users aligned (2 skipped)")
    assert "is pinned at version 1" in named["error"]
    assert "persona unpin" in error


def test_ask_is_counted_as_an_answer(store: UserStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("program.models.resolve.resolve_lm", lambda spec=None: scripted_lm(reply))
    monkeypatch.setattr("sys.argv", ["personaagent", "ask", "ana", "q", "--no-wikipedia", "--trace", "off"])
    with pytest.raises(SystemExit) as end:
        personaagent.main()
    assert end.value.code == 0
    cost = store.cost("ana")
    assert (cost.answers, cost.alignments) == (1, 0)
    assert cost.calls > 0
    store.record_answer("ana", Usage(calls=1))
    assert store.cost("ana").answers == 2
