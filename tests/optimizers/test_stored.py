"""Aligning a stored user: what is saved, when, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimizers import PAPER, AlignmentConfig, UserResult, aalign_user, align_user, align_users
from optimizers.cli import _row
from optimizers.journal import MemoryJournal
from program import Interaction, UserStore, open_session, scripted_lm
from program.console import MODEL
from program.errors import (
    AlignmentFailedError,
    BudgetExceededError,
    EmptyHistoryError,
    ModelSetupError,
    PinnedPersonaError,
    StoreError,
    StoreUnavailableError,
    UnknownUserError,
    UnparsableAnswerError,
)
from program.loop import AgentSettings
from program.models.outages import is_outage
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, open_tracer, store_path
from program.tracing.view.personas import persona_history
from program.usage import Budget


@pytest.fixture
def store(location: str) -> Iterator[UserStore]:
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        for number in range(4):
            store.observe("ana", query=f"question {number}", response=f"answer {number}")
        yield store


def results_of(store: UserStore, user_ids: list[str]) -> list[UserResult]:
    """Align users and return their results in the order of their ids."""

    async def collect() -> list[UserResult]:
        results = await align_users(store, user_ids, AlignmentConfig(), wikipedia=False)
        return [result async for result in results]

    return sorted(asyncio.run(collect()), key=lambda result: user_ids.index(result.user_id))


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


def test_every_traced_call_of_an_alignment_names_it(store: UserStore, tmp_path: Path) -> None:
    with open_tracer("local", home=tmp_path), dspy.context(lm=scripted_lm(reply)):
        align_user(store, "ana", PAPER, wikipedia=False)
    with closing(TraceStore(store_path(tmp_path))) as traces:
        calls = traces.calls(LOCAL_PROJECT)
        history = persona_history(traces, "ana", store.persona_history("ana"))
    roots = {call["id"]: call["trace_id"] for call in calls if "align" in call["op_name"]}
    ids = {call["attributes"].get("alignment_id") for call in calls if call["trace_id"] in roots.values()}
    assert ids == {store.alignments("ana")[0].id}
    assert [(change.label, change.source) for change in history] == [("v1", "initial"), ("v2", "step")]


def test_the_new_persona_and_the_record_become_visible_together(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        agent = align_user(store, "ana", PAPER, wikipedia=False)
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
        agent = asyncio.run(aalign_user(store, "ana", PAPER, wikipedia=False))
    assert str(store.persona("ana")) == "v2 of 'ana' (alignment, from v1): every rewrite is kept"
    assert agent.alignment.n_rollouts == 3


def test_a_failure_keeps_the_persona_and_is_recorded(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(failing)), pytest.raises(dspy.LMError):
        align_user(store, "ana", PAPER, wikipedia=False)
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


def test_the_last_step_is_kept_if_the_new_persona_cannot_be_stored(store: UserStore) -> None:
    def pins(system: str, user: str) -> Any:
        if "refine the system prompt" in system:
            store.pin("ana", 1)
        return reply(system, user)

    with dspy.context(lm=scripted_lm(pins)), pytest.raises(PinnedPersonaError):
        align_user(store, "ana", PAPER, wikipedia=False)
    alignment = store.alignments("ana")[0]
    assert alignment.status == "failed"
    assert [step["persona_after"] for step in store.steps("ana", alignment.id)] == ["Answer briefly."]


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
        align_user(store, "ana", PAPER, budget=Budget(max_calls=5), wikipedia=False)
    assert len(lm.engine.prompts) <= 6  # one more is the profile's summary, outside the budget
    assert store.alignments("ana")[0].status == "failed"


def test_an_unknown_user_and_an_empty_history_are_refused_before_a_call(store: UserStore) -> None:
    lm = scripted_lm(reply)
    store.add_user("bo", task="free-text")
    with dspy.context(lm=lm):
        with pytest.raises(UnknownUserError):
            align_user(store, "nobody", PAPER, wikipedia=False)
        with pytest.raises(EmptyHistoryError):
            align_user(store, "bo", PAPER, wikipedia=False)
    assert lm.engine.prompts == []


def test_rollouts_that_all_fail_are_no_feedback(store: UserStore) -> None:
    def garbage(system: str, user: str) -> Any:
        return reply(system, user) if "Describe one user" in system else ""

    with dspy.context(lm=scripted_lm(garbage)), pytest.raises(AlignmentFailedError):
        align_user(store, "ana", PAPER, wikipedia=False)
    version = store.persona("ana")
    assert version is not None
    assert version.version == 1


def test_a_persona_that_changed_meanwhile_is_not_overwritten(store: UserStore) -> None:
    def edited_meanwhile(system: str, user: str) -> Any:
        if "refine the system prompt" in system:
            store.add_persona("ana", "Edited by hand.", source="edit", why="by hand")
        return reply(system, user)

    with (
        dspy.context(lm=scripted_lm(edited_meanwhile)),
        pytest.raises(StoreError, match="changed in the meantime"),
    ):
        align_user(store, "ana", PAPER, wikipedia=False)
    version = store.persona("ana")
    assert version is not None
    assert version.text == "Edited by hand."


def test_an_open_session_sees_the_new_persona_after_refresh(store: UserStore) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        session = open_session(store, "ana", wikipedia=False)
        align_user(store, "ana", PAPER, wikipedia=False)
        assert session.version.version == 1
        session.refresh()
    # The paper's rule begins with the paper's persona, which is v2.
    assert (session.version.version, session.agent.persona) == (3, "Answer briefly.")


class TestStaleness:
    """Only what was learned from the new interactions makes a user not stale."""

    def test_first_alignment_that_fails_leaves_new_data(self, store: UserStore) -> None:
        with dspy.context(lm=scripted_lm(failing)), pytest.raises(dspy.LMError):
            align_user(store, "ana", PAPER, wikipedia=False)
        assert store.user("ana").stale
        with dspy.context(lm=scripted_lm(reply)):
            align_user(store, "ana", PAPER, wikipedia=False)
        assert not store.user("ana").stale

    @pytest.mark.parametrize("budget", [0, 1, 4, 7])
    def test_first_alignment_that_a_budget_stops_leaves_new_data(self, store: UserStore, budget: int) -> None:
        with dspy.context(lm=scripted_lm(reply)), pytest.raises(BudgetExceededError):
            align_user(store, "ana", PAPER, budget=Budget(max_calls=budget), wikipedia=False)
        assert store.user("ana").stale

    def test_first_alignment_that_confirms_the_persona_settles(self, store: UserStore) -> None:
        with dspy.context(lm=scripted_lm(reply)):
            align_user(store, "ana", AlignmentConfig(gate="best"), wikipedia=False)
        assert not store.user("ana").stale

    def test_edit_and_rollback_after_new_data_leave_it(self, store: UserStore) -> None:
        with dspy.context(lm=scripted_lm(reply)):
            align_user(store, "ana", PAPER, wikipedia=False)
            store.observe("ana", query="question 4", response="answer 4")
            store.rollback("ana", 1)
            store.add_persona("ana", "Mine.", source="edit", why="by hand")
            open_session(store, "ana", wikipedia=False)
            assert store.user("ana").stale
            align_user(store, "ana", PAPER, wikipedia=False)
        assert not store.user("ana").stale

    def test_interaction_that_arrives_during_the_alignment_stays_new(self, store: UserStore) -> None:
        def observing(system: str, user: str) -> Any:
            if "refine the system prompt" in system:
                store.observe("ana", query="question 4", response="answer 4")
            return reply(system, user)

        with dspy.context(lm=scripted_lm(observing)):
            align_user(store, "ana", PAPER, wikipedia=False)
        assert store.user("ana").stale


class TestOneOfSeveral:
    """`align --all`: which failures are one user's row, and which stop the rest."""

    ROWS = (
        dspy.ContextWindowExceededError(model="m", message="8192 tokens"),
        dspy.LMInvalidRequestError("filtered", provider_code="content_filter"),
        AlignmentFailedError("no rollout"),
        EmptyHistoryError("nothing"),
        StoreError("damaged"),
        UnparsableAnswerError("no label"),
        UnknownUserError("forgotten meanwhile"),
        ZeroDivisionError("in a gate"),
        ValueError("two\nlines"),
    )
    OUTAGES = (
        dspy.LMAuthError("no key"),
        dspy.LMBillingError("no credit"),
        dspy.LMRateLimitError("slow down"),
        dspy.LMTimeoutError("late"),
        dspy.LMServerError("down"),
        dspy.LMTransportError("unreachable"),
        dspy.LMNotConfiguredError("no model"),
        dspy.LMUnsupportedModelError("no such model"),
        dspy.LMInvalidRequestError("no such model", status=404),
        dspy.LMUnexpectedError("?"),
        BudgetExceededError("the limit is 1 calls"),
        ModelSetupError("no key"),
        StoreUnavailableError("database or disk is full"),
    )

    @pytest.mark.parametrize("error", [*ROWS, *OUTAGES], ids=lambda error: type(error).__name__)
    def test_failure_is_a_row_of_one_line(
        self, store: UserStore, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        async def failing_align(*args: Any, **settings: Any) -> Any:
            raise error

        monkeypatch.setattr("optimizers.fleet.users.aalign_user", failing_align)
        with dspy.context(lm=scripted_lm(reply)):
            (result,) = results_of(store, ["ana"])
        row = _row(result)
        assert row["user_id"] == "ana"
        assert row["error"]
        assert "\n" not in row["error"]
        assert row["code"] != 0
        # No limit of the run is spent, so this one was the user's own.
        stops = error in self.OUTAGES and not isinstance(error, BudgetExceededError)
        assert result.status == ("stopped" if stops else "failed")

    @pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
    def test_outage_is_one_for_every_request(self, error: Exception) -> None:
        assert is_outage(error)

    def test_prompt_too_long_for_one_user_leaves_the_others(self, store: UserStore) -> None:
        def limited(system: str, user: str) -> Any:
            if len(user) > 40_000:
                raise dspy.ContextWindowExceededError(model="scripted", message="maximum context length")
            return reply(system, user)

        for name, query in (("ben", "word " * 20_000), ("cem", "Dinner?")):
            store.add_user(name, task="free-text")
            store.observe(name, query=query, response="Soup.")
        with dspy.context(lm=scripted_lm(limited)):
            results = results_of(store, ["ana", "ben", "cem"])
        rows = [_row(result) for result in results]
        assert [bool(row["error"]) for row in rows] == [False, True, False]
        assert [result.status for result in results] == ["aligned", "failed", "aligned"]
        assert "too long" in rows[1]["error"]
        assert rows[1]["code"] == MODEL
        assert [store.user(name).stale for name in ("ana", "ben", "cem")] == [False, True, False]

    def test_user_with_a_damaged_row_leaves_the_others(self, store: UserStore) -> None:
        one = Interaction(id="1", user_id="ben", query="q", response="r")
        store.append("ben", [one], task="free-text")
        with store._database.write() as connection:
            connection.exec_driver_sql("UPDATE pa_users SET task = 'no-such-task' WHERE user_id = 'ben'")
        with dspy.context(lm=scripted_lm(reply)):
            results = results_of(store, ["ben", "ana"])
        assert "no-such-task" in str(results[0].error)
        assert [result.status for result in results] == ["failed", "aligned"]


class TestLongTexts:
    @staticmethod
    def append(store: UserStore, query: str, response: str) -> None:
        """Store a text as long as it is; `observe` cuts one to the task's limit."""
        now = datetime.now(timezone.utc)
        item = Interaction(id="long", user_id="ana", query=query, response=response, timestamp=now)
        store.append("ana", [item])

    @staticmethod
    def prompts_of(store: UserStore, settings: AgentSettings | None) -> tuple[list[str], Any]:
        prompts: list[str] = []

        def watched(system: str, user: str) -> Any:
            if "critical evaluator" in system:
                prompts.append(user)
            return reply(system, user)

        with dspy.context(lm=scripted_lm(watched)):
            agent = align_user(
                store, "ana", AlignmentConfig(batch_size=1), wikipedia=False, settings=settings
            )
        return prompts, agent.alignment.steps[0]

    def test_feedback_reads_texts_up_to_the_limit_and_the_step_says_so(self, store: UserStore) -> None:
        store.observe("ana", query="q" * 300, response="Dear all, " + "word " * 20_000)
        prompts, step = self.prompts_of(store, AgentSettings(max_input_chars=200))
        assert len(prompts[0]) < 1000
        assert "q" * 199 + "…" in prompts[0]
        assert step.note == "feedback saw 2 texts cut to 200 characters"
        assert step.decision.accept
        assert store.alignments("ana")[0].record["steps"][0]["note"] == step.note

    def test_default_limit_leaves_room_in_a_context_of_8192_tokens(self, store: UserStore) -> None:
        self.append(store, "q", "word " * 100_000)
        prompts, step = self.prompts_of(store, None)
        assert len(prompts[0]) < 13_000
        assert "1 text cut to 12000" in step.note

    def test_texts_below_the_limit_are_unchanged(self, store: UserStore) -> None:
        self.append(store, "q" * 5000, "r" * 12_000)
        prompts, step = self.prompts_of(store, None)
        assert "q" * 5000 in prompts[0]
        assert "r" * 12_000 in prompts[0]
        assert step.note == ""


def test_own_tools_are_used_in_rollouts(store: UserStore) -> None:
    def moon(phase: str = "new") -> str:
        """Say what the moon does."""
        return f"the moon is {phase}"

    def looking(system: str, user: str) -> Any:
        text = reply(system, user)
        if isinstance(text, dict) and "the moon is" not in user:
            return {"thought": "", "action": {"tool": "moon", "phase": None}}
        return text

    with dspy.context(lm=scripted_lm(looking)):
        agent = align_user(store, "ana", PAPER, wikipedia=False, tools=[moon])
    assert list(agent.context.tools.tools) == ["search_memory", "read_profile", "moon"]
    assert agent.alignment.steps[0].rollouts[0].tools[0] == "moon(new)"


class Stopping(MemoryJournal):
    """Stops the alignment at its first paid piece, once."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = True

    async def run(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        if not name.endswith("/past") and self.stops:
            self.stops = False
            raise KeyboardInterrupt
        return await super().run(name, work)


def learns_action(system: str, user: str) -> Any:
    if "critical evaluator" in system:
        return "This user calls films action."
    if "You maintain the list" in system:
        return {"edits": [{"op": "add", "text": "Calls films action.", "cites": [1]}]}
    if "`action`" in user:
        return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
    return {"answer": "action" if "Calls films action." in system else "comedy"}


def test_a_stopped_alignment_goes_on_with_what_it_knew_of_others_when_it_began(location: str) -> None:
    def align(user_id: str, journal: MemoryJournal | None = None) -> float:
        agent = align_user(store, user_id, journal=journal, wikipedia=False)
        return float(agent.alignment.steps[0].checks[0].decision.numbers["gain"])

    with UserStore(location) as store, dspy.context(lm=scripted_lm(learns_action)):
        for user_id in ("ana", "bo", "chi"):
            store.add_user(user_id, task="LaMP-2M")
            for number in range(12):
                store.observe(user_id, query=f"film {number}", response="action")
        journal = Stopping()
        with pytest.raises(KeyboardInterrupt):
            align("ana", journal)
        alone = align("bo")
        assert align("ana", journal) == alone  # as if bo's tests had not come in between
        assert align("chi") > alone  # they make a gain more likely for who begins now
