"""An interrupt lets the calls in flight end, keeps and counts them, and begins no other one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from optimizers import PAPER, align_users
from optimizers.interrupts import all_of, not_begun, to_its_end
from program import Interaction, UserStore, scripted_lm
from program.usage import UsageTracker, track_usage

USERS = ["ana", "ben", "cem"]
SLOTS = 5
N_CALLS = 3 * (1 + 3 * 3 + 3 + 1)
"""A profile, three calls for each of three rollouts, their feedback and an update, for three users."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "users.db") as store:
        for user_id in USERS:
            films = [
                Interaction(id=f"f{n}", user_id=user_id, query=f"Film {n} of {user_id}", response="action")
                for n in range(6)
            ]
            store.append(user_id, films, task="LaMP-2M")
        yield store


class Model:
    """Answers after a while; ``asked`` counts calls when they come, and not when they are answered."""

    def __init__(self) -> None:
        self.asked = self.in_flight = 0
        self.lm = scripted_lm(self.reply)
        self._complete = self.lm._async_engine_spec.complete
        self.lm._async_engine_spec.complete = self.complete

    def reply(self, system: str, user: str) -> Any:
        if "critical evaluator" in system:
            return "This user calls films action."
        if "refine the system prompt" in system:
            return "You help someone. Calls films action."
        if "`action`" in user:
            return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
        if "`answer`" in user:
            return {"answer": "comedy"}
        return "This user likes films."

    async def complete(self, request: Any) -> Any:
        self.asked += 1
        self.in_flight += 1
        await asyncio.sleep(0.02)
        self.in_flight -= 1
        return await self._complete(request)


async def align(store: UserStore, model: Model) -> None:
    async for _ in await align_users(store, USERS, PAPER, lm=model.lm, wikipedia=False, concurrency=SLOTS):
        pass


async def align_until(store: UserStore, model: Model, call: int) -> None:
    """Interrupt the run when so many calls have come."""
    task = asyncio.create_task(align(store, model))
    while model.asked < call:
        await asyncio.sleep(0.001)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)  # until it has reached all tasks
    # A call that has its slot may not have reached the model yet.
    most = model.asked + SLOTS - model.in_flight
    with suppress(asyncio.CancelledError):
        await task
    assert model.asked <= most, "a call was begun after the interrupt"


@pytest.mark.parametrize("call", [1, 6, 14, 22, 30, 38])
def test_an_interrupt_at_any_call_loses_none(
    store: UserStore, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path / "home"))
    model, tracker = Model(), UsageTracker()
    with track_usage(tracker, model.lm):
        asyncio.run(align_until(store, model, call))
        assert tracker.total().calls == model.asked
        asyncio.run(align(store, model))
    assert model.asked == N_CALLS
    assert [store.user(user_id).persona_version for user_id in USERS] == [2, 2, 2]


async def test_what_waits_is_ended_and_what_has_begun_is_not() -> None:
    said: list[str] = []

    async def waits() -> None:
        with not_begun():
            await asyncio.sleep(60)
        said.append("begun")

    async def begun() -> None:
        with not_begun():
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        said.append("ended")

    tasks = [asyncio.create_task(to_its_end(work())) for work in (waits, begun)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    assert said == ["ended"]
    assert all(task.cancelled() for task in tasks)


async def test_a_second_interrupt_ends_a_call_at_once() -> None:
    task = asyncio.create_task(to_its_end(asyncio.sleep(60)))
    for _ in range(2):
        await asyncio.sleep(0.01)
        task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done == {task}


async def test_the_first_failure_ends_the_others_and_is_the_one_that_is_raised() -> None:
    ended: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("the reason")

    async def call(name: str) -> None:
        await asyncio.sleep(0.03)
        ended.append(name)

    with pytest.raises(ValueError, match="the reason"):
        await all_of([to_its_end(call("first")), fails(), to_its_end(call("third")), asyncio.sleep(60)])
    assert ended == ["first", "third"]
    assert await all_of([]) == []
