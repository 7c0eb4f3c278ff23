"""The limit on calls in flight: how it grows, shrinks, and is shared. Time is a number here."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from optimizers.fleet.limit import CUT_SECONDS, FIRST, AdaptiveLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def rounds(limit: AdaptiveLimit, n_rounds: int) -> list[int]:
    """Fill the limit and answer every call, ``n_rounds`` times; return the limit after each."""
    limits = []
    for _ in range(n_rounds):
        at_once = limit.limit
        full = asyncio.Event()

        async def call(full: asyncio.Event = full, at_once: int = at_once) -> None:
            async with limit.slot("ana"):
                if limit.in_flight == at_once:
                    full.set()
                await full.wait()
            limit.answered()

        await asyncio.gather(*(call() for _ in range(at_once)))
        limits.append(limit.limit)
    return limits


async def test_the_limit_doubles_with_each_round_up_to_the_ceiling() -> None:
    limit = AdaptiveLimit(128)
    assert limit.limit == FIRST == 20
    assert await rounds(limit, 5) == [40, 80, 128, 128, 128]


async def test_a_refusal_ends_the_doubling_and_each_clean_round_then_adds_five_percent() -> None:
    limit = AdaptiveLimit(128, clock=Clock())
    await rounds(limit, 2)
    limit.refused()
    assert limit.limit == 64
    assert await rounds(limit, 4) == [67, 70, 73, 76]


async def test_a_storm_of_refusals_cuts_once_in_fifteen_seconds() -> None:
    clock = Clock()
    limit = AdaptiveLimit(100, first=100, clock=clock)
    for _ in range(50):
        limit.refused()
    assert limit.limit == 80
    clock.now += CUT_SECONDS - 0.1
    limit.refused()
    assert limit.limit == 80
    clock.now += 0.1
    limit.refused()
    assert limit.limit == 64


async def test_a_round_with_a_refusal_is_not_clean() -> None:
    limit = AdaptiveLimit(100, first=10, clock=Clock())
    limit.refused()
    assert limit.limit == 8
    for _ in range(20):
        limit._was_full = True
        for _ in range(7):
            limit.answered()
        limit.refused()
    assert limit.limit == 8


async def test_the_limit_is_never_below_one() -> None:
    clock = Clock()
    limit = AdaptiveLimit(4, clock=clock)
    for _ in range(20):
        limit.refused()
        clock.now += CUT_SECONDS
    assert limit.limit == 1
    assert await rounds(limit, 3) == [2, 3, 4]


async def test_a_limit_that_nobody_reaches_does_not_grow() -> None:
    limit = AdaptiveLimit(128)
    for _ in range(200):
        async with limit.slot("ana"):
            pass
        limit.answered()
    assert limit.limit == FIRST


async def test_users_take_turns_however_many_calls_one_of_them_has_waiting() -> None:
    limit, served = AdaptiveLimit(2), []

    async def call(user_id: str) -> None:
        async with limit.slot(user_id):
            served.append(user_id)
            await asyncio.sleep(0)

    greedy = [asyncio.create_task(call("greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    others = [asyncio.create_task(call(name)) for name in ("ana", "ben")]
    await asyncio.gather(*greedy, *others)
    assert max(served.index("ana"), served.index("ben")) <= 6
    assert Counter(served) == {"greedy": 20, "ana": 1, "ben": 1}


@pytest.mark.parametrize("when", ["waiting", "at the end", "served"])
async def test_a_cancelled_call_leaves_its_place_to_the_next(when: str) -> None:
    limit = AdaptiveLimit(1)
    entered: list[str] = []

    async def call(user_id: str) -> None:
        async with limit.slot(user_id):
            entered.append(user_id)

    async with limit.slot("ana"):
        gone = asyncio.create_task(call("ben"))
        stays = asyncio.create_task(call("cem"))
        await asyncio.sleep(0)
        if when != "served":
            gone.cancel()
        if when == "waiting":  # else it has not run since, and its place becomes free at the same moment
            await asyncio.sleep(0)
    if when == "served":  # the place is given, and the task has not run yet
        gone.cancel()
    await asyncio.gather(gone, stays, return_exceptions=True)
    assert entered == ["cem"]
    assert limit.in_flight == 0
    assert not limit._waiting


async def test_no_more_than_the_limit_are_ever_in_flight() -> None:
    limit, most = AdaptiveLimit(7), 0

    async def call(number: int) -> None:
        nonlocal most
        async with limit.slot(f"u{number % 5}"):
            most = max(most, limit.in_flight)
            await asyncio.sleep(0)
        limit.answered()

    await asyncio.gather(*(call(number) for number in range(100)))
    assert most == 7
    assert limit.in_flight == 0
