from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from dspy import lm15
from hypothesis import given
from hypothesis import strategies as st

from program.models.embedded import _body
from program.models.seeds import next_seed, repeatable_seeds


def seeds(name: str, number: int) -> list[int]:
    with repeatable_seeds(name):
        return [next_seed() for _ in range(number)]


def test_process_seeds_are_unique() -> None:
    assert len({next_seed() for _ in range(100)}) == 100


def test_nth_seed_of_a_name_is_always_the_same() -> None:
    first = seeds("0 prepare anna", 3)
    next_seed()
    assert seeds("0 prepare anna", 5)[:3] == first
    assert len({*first, *seeds("0 prepare bert", 3), *seeds("1 prepare anna", 3)}) == 9
    assert all(1 <= seed < 2**31 for seed in first)


def test_only_sampled_requests_use_a_seed() -> None:
    def body(temperature: float) -> dict[str, object]:
        config = lm15.Config(max_tokens=8, temperature=temperature)
        return _body(lm15.Request(model="m", messages=(lm15.Message.user("hi"),), config=config))

    with repeatable_seeds("a"):
        assert "seed" not in body(0.0)
        assert body(0.7)["seed"] == seeds("a", 1)[0]


def test_nested_blocks_continue_the_outer_one_afterwards() -> None:
    expected = seeds("outer", 2)
    with repeatable_seeds("outer"):
        first = next_seed()
        assert seeds("inner", 1) != [expected[1]]
        assert [first, next_seed()] == expected


def test_block_that_raises_restores_the_process_seeds() -> None:
    before = next_seed()
    with pytest.raises(RuntimeError), repeatable_seeds("a"):
        raise RuntimeError
    assert next_seed() == before + 1


def test_concurrent_tasks_of_asyncio_keep_their_own_seeds() -> None:
    async def draw(name: str) -> list[int]:
        with repeatable_seeds(name):
            numbers = []
            for _ in range(3):
                numbers.append(next_seed())
                await asyncio.sleep(0)
            return numbers

    async def both() -> list[list[int]]:
        return await asyncio.gather(draw("a"), draw("b"))

    assert asyncio.run(both()) == [seeds("a", 3), seeds("b", 3)]


def test_threads_do_not_inherit_a_block() -> None:
    with repeatable_seeds("a"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(next_seed).result() not in seeds("a", 1)


@given(st.text())
def test_seeds_of_any_name_are_in_range(name: str) -> None:
    assert all(1 <= seed < 2**31 for seed in seeds(name, 3))
