"""An alignment that is stopped and run again with the same journal: what is paid, and what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizers import GROUNDED, AlignmentConfig, MemoryJournal, PersonaAlignment, examples
from optimizers.record import AlignmentRecord
from program import (
    Budget,
    EpisodicMemory,
    Interaction,
    PersonaAgent,
    UsageTracker,
    first_persona,
    get_task,
    scripted_lm,
    track_usage,
)
from program.errors import BudgetExceededError
from program.tools import default_tools

TASK = get_task("LaMP-2M")
LIKES = "Calls films action."
CONFIGS = {
    "paper": AlignmentConfig(),
    "two steps that are refused": AlignmentConfig(steps=2, gate="best"),
    "hardest": AlignmentConfig(batch="hardest:pool_factor=2", gate="best"),
    "grounded": GROUNDED,
}


class Stopped(BaseException):
    """The process ends here."""


class StopsAfter(MemoryJournal):
    """A journal that stops the run after a number of new pieces."""

    def __init__(self, pieces: dict[str, str], limit: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.left = limit

    async def run(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        if name not in self.pieces:
            if self.left == 0:
                raise Stopped
            self.left -= 1
        return await super().run(name, work)


def reply(system: str, user: str) -> Any:
    if "critical evaluator" in system:
        return "This user calls films action."
    if "You maintain the list" in system:
        return {"edits": [{"op": "add", "text": LIKES, "cites": [1]}]}
    if "refine the system prompt" in system:
        return f"You help someone. {LIKES} {len(user)}"
    if "`action`" in user:
        return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
    return {"answer": "action" if LIKES in system else "comedy"}


def agent(folder: Path, config: AlignmentConfig) -> tuple[PersonaAgent, list[dspy.Example]]:
    films = [Interaction(id=f"f{n}", user_id="ana", query=f"Film {n}", response="action") for n in range(12)]
    memory = EpisodicMemory("ana", films)
    persona = first_persona() if config.edits else "Be brief."
    made = PersonaAgent.for_user(
        "ana", memory, default_tools(folder, wikipedia=False), task=TASK, persona=persona
    )
    return made, examples(memory, TASK)


def compiled(folder: Path, config: AlignmentConfig, journal: Any, lm: Any, **options: Any) -> AlignmentRecord:
    student, trainset = agent(folder, config)
    with dspy.context(lm=lm):
        aligned = PersonaAlignment(config, journal=journal, **options).compile(student, trainset=trainset)
    record: AlignmentRecord = aligned.alignment
    return record


def stable(record: AlignmentRecord) -> dict[str, Any]:
    """The record without what differs between any two runs."""
    data = replace(record, seconds=0.0, model="", prompt_model="").as_dict()
    return data


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_a_stopped_alignment_pays_only_for_the_rest_and_ends_the_same(
    tmp_path: Path, name: str, stops: list[int]
) -> None:
    config, lm = CONFIGS[name], scripted_lm(reply)
    whole = compiled(tmp_path, config, None, lm)
    n_calls = len(lm.engine.prompts)

    lm, pieces = scripted_lm(reply), {}
    for limit in stops:
        try:
            compiled(tmp_path, config, StopsAfter(pieces, limit), lm)
        except Stopped:
            continue
        break
    again = compiled(tmp_path, config, StopsAfter(pieces, 1000), lm)
    assert len(lm.engine.prompts) == n_calls
    assert stable(again) == stable(whole)
    # A run of a finished alignment is free, and reports what it cost when it was paid.
    assert stable(compiled(tmp_path, config, StopsAfter(pieces, 0), lm)) == stable(whole)
    assert len(lm.engine.prompts) == n_calls


def test_a_replayed_piece_counts_in_the_alignment_and_not_in_what_this_run_paid(tmp_path: Path) -> None:
    lm, journal = scripted_lm(reply), MemoryJournal()
    first = compiled(tmp_path, AlignmentConfig(), journal, lm)
    paid = UsageTracker()
    with track_usage(paid, lm):
        student, trainset = agent(tmp_path, AlignmentConfig())
        again = PersonaAlignment(journal=journal).compile(student, trainset=trainset).alignment
    assert again.usage == first.usage
    assert sum(usage.calls for usage in first.usage.values()) == len(lm.engine.prompts)
    assert paid.total().calls == 0


def test_a_budget_of_an_alignment_holds_over_its_runs(tmp_path: Path) -> None:
    lm, journal, budget = scripted_lm(reply), MemoryJournal(), Budget(max_calls=8)
    for _ in range(3):
        with pytest.raises(BudgetExceededError):
            compiled(tmp_path, AlignmentConfig(), journal, lm, budget=budget)
    # The third rollout is not finished within the budget, so its calls are paid anew; the others never.
    names = [name for name in journal.pieces if name.endswith("/rollout/1")]
    assert len(names) == 2
    assert len(lm.engine.prompts) <= 8 + 2 * 3


def test_pieces_are_named_by_user_persona_interaction_and_what(tmp_path: Path) -> None:
    journals = [MemoryJournal(), MemoryJournal()]
    for journal in journals:
        compiled(tmp_path, AlignmentConfig(), journal, scripted_lm(reply))
    names = [name.split("/") for name in journals[0].pieces]
    assert [(name[0], name[2], name[3]) for name in names] == [
        *(("ana", f"f{n}", "rollout") for n in (9, 10, 11)),
        *(("ana", f"f{n}", "textual_loss") for n in (9, 10, 11)),
        ("ana", "", "update"),
    ]
    assert journals[0].pieces.keys() == journals[1].pieces.keys()


class KeepsCalls(MemoryJournal):
    """Keeps the calls of a piece too, and stops before a number of new calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[tuple[str, int], Any] = {}
        self.left = 10_000
        self.lock = asyncio.Lock()

    async def run_call(self, piece: str, number: int, work: Callable[[], Awaitable[Any]]) -> Any:
        # One call at a time: those in flight when a process stops are paid and lost.
        async with self.lock:
            if (piece, number) not in self.calls:
                if self.left == 0:
                    raise Stopped
                self.left -= 1
                self.calls[piece, number] = await work()
            return self.calls[piece, number]


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_a_journal_of_calls_pays_no_call_of_an_unfinished_piece_again(
    tmp_path: Path, name: str, stops: list[int]
) -> None:
    config, lm = CONFIGS[name], scripted_lm(reply)
    whole = compiled(tmp_path, config, None, lm)
    n_calls = len(lm.engine.prompts)

    lm, journal = scripted_lm(reply), KeepsCalls()

    async def run() -> AlignmentRecord:
        journal.lock = asyncio.Lock()
        student, trainset = agent(tmp_path, config)
        with dspy.context(lm=lm):
            aligned = await PersonaAlignment(config, journal=journal).acompile(student, trainset=trainset)
        record: AlignmentRecord = aligned.alignment
        return record

    for limit in stops:
        journal.left = limit
        try:
            asyncio.run(run())
        except Stopped:
            continue
        break
    journal.left = 10_000
    again = asyncio.run(run())
    assert len(lm.engine.prompts) == n_calls
    assert stable(again) == stable(whole)
