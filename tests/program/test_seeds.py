from __future__ import annotations

from dspy import lm15

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
