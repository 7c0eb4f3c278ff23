"""Aligning a stored user: what is saved, when, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimizers import AlignmentConfig, aalign_user, align_user
from program import UserStore, open_session, scripted_lm
from program.errors import AlignmentFailedError, EmptyHistoryError, StoreError, UnknownUserError
from program.usage import Budget


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UserStore]:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path / "home"))
    with UserStore(tmp_path / "users.db") as store:
        store.add_user("ana", task="free-text")
        for number in range(4):
            store.observe("ana", query=f"question {number}", response=f"answer {number}")
        yield store


def reply(system: str, user: str) -> Any:
    if "critical evaluator" in system:
        return "Be shorter."
    if "refine the system prompt" in system:
        return "Answer briefly."
    if "Describe one user" in system:
        return "Ana asks short questions."
    return {"thought": "", "action": {"tool": "finish", "answer": "an answer"}}


def failing(system: str, user: str) -> Any:
    if "refine the system prompt" in system:
        raise dspy.LMServerError("down")
    return reply(system, user)


def test_the_new_persona_and_the_record_become_visible_together(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        agent = align_user(store, "ana", wikipedia=False)
    version = store.persona("ana")
    assert version is not None
    assert (version.version, version.source, version.text) == (2, "alignment", "Answer briefly.")
    assert agent.persona == version.text
    alignment = store.alignments("ana")[0]
    assert (alignment.status, alignment.record["agent_runs"]) == ("done", 3)
    assert alignment.record == {**agent.alignment.as_dict(), "plan": alignment.record["plan"]}
    assert store.steps("ana", alignment.id) == alignment.record["steps"]
    assert not store.user("ana").stale


def test_the_async_twin_stores_the_same(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        agent = asyncio.run(aalign_user(store, "ana", wikipedia=False))
    assert str(store.persona("ana")) == "v2 of 'ana' (alignment, from v1): every rewrite is kept"
    assert agent.alignment.n_rollouts == 3


def test_a_failure_keeps_the_persona_and_is_recorded(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(failing)), pytest.raises(dspy.LMError):
        align_user(store, "ana", wikipedia=False)
    version, alignment = store.persona("ana"), store.alignments("ana")[0]
    assert version is not None
    assert version.source == "initial"
    assert (alignment.status, alignment.error) == ("failed", "LMServerError: down")


def test_finished_steps_are_saved_before_a_later_step_fails(store: UserStore) -> None:
    updates = iter(["Answer briefly."])

    def second_update_fails(system: str, user: str) -> Any:
        if "refine the system prompt" in system:
            text = next(updates, None)
            if text is None:
                raise dspy.LMServerError("down")
            return text
        return reply(system, user)

    with dspy.context(lm=scripted_lm(second_update_fails)), pytest.raises(dspy.LMError):
        align_user(store, "ana", AlignmentConfig(steps=2), wikipedia=False)
    alignment = store.alignments("ana")[0]
    steps = store.steps("ana", alignment.id)
    assert [step["persona_after"] for step in steps] == ["Answer briefly."]
    assert [rollout["interaction_id"] for rollout in steps[0]["simulations"]] == [
        interaction.id for interaction in store.interactions("ana", latest=3)
    ]


def test_a_gate_that_refuses_leaves_the_version(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        agent = align_user(store, "ana", AlignmentConfig(gate="best"), wikipedia=False)
    version = store.persona("ana")
    assert version is not None
    assert version.version == 1
    assert "did not rise" in agent.alignment.steps[0].decision.reason


def test_a_budget_stops_before_the_call_and_marks_the_run(store: UserStore) -> None:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm), pytest.raises(Exception, match="limit is 5 calls"):
        align_user(store, "ana", budget=Budget(max_calls=5), wikipedia=False)
    assert len(lm.engine.prompts) <= 6  # one more is the profile's summary, outside the budget
    assert store.alignments("ana")[0].status == "failed"


def test_an_unknown_user_and_an_empty_history_are_refused_before_a_call(store: UserStore) -> None:
    lm = scripted_lm(reply)
    store.add_user("bo", task="free-text")
    with dspy.context(lm=lm):
        with pytest.raises(UnknownUserError):
            align_user(store, "nobody", wikipedia=False)
        with pytest.raises(EmptyHistoryError):
            align_user(store, "bo", wikipedia=False)
    assert lm.engine.prompts == []


def test_rollouts_that_all_fail_are_no_feedback(store: UserStore) -> None:
    def garbage(system: str, user: str) -> Any:
        return reply(system, user) if "Describe one user" in system else ""

    with dspy.context(lm=scripted_lm(garbage)), pytest.raises(AlignmentFailedError):
        align_user(store, "ana", wikipedia=False)
    version = store.persona("ana")
    assert version is not None
    assert version.version == 1


def test_a_persona_that_changed_meanwhile_is_not_overwritten(store: UserStore) -> None:
    def edited_meanwhile(system: str, user: str) -> Any:
        if "refine the system prompt" in system:
            store.add_persona("ana", "Edited by hand.", source="edit", why="by hand")
        return reply(system, user)

    with dspy.context(lm=scripted_lm(edited_meanwhile)), pytest.raises(StoreError, match="changed in the meantime"):
        align_user(store, "ana", wikipedia=False)
    version = store.persona("ana")
    assert version is not None
    assert version.text == "Edited by hand."


def test_an_open_session_sees_the_new_persona_after_refresh(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        session = open_session(store, "ana", wikipedia=False)
        align_user(store, "ana", wikipedia=False)
        assert session.version.version == 1
        session.refresh()
    assert (session.version.version, session.agent.persona) == (2, "Answer briefly.")
