from __future__ import annotations

from dspy import lm15

from program.models.embedded import _body
from program.models.seeds import next_seed, repeatable_seeds


def drawn(name: str, number: int) -> list[int]:
    with repeatable_seeds(name):
        return [next_seed() for _ in range(number)]


def test_seeds_never_repeat_on_their_own() -> None:
    assert len({next_seed() for _ in range(100)}) == 100


def test_the_nth_seed_of_a_name_is_the_same_whatever_ran_before() -> None:
    first = drawn("0 prepare anna", 3)
    next_seed()
    assert drawn("0 prepare anna", 5)[:3] == first
    assert len({*first, *drawn("0 prepare bert", 3), *drawn("1 prepare anna", 3)}) == 9
    assert all(1 <= seed < 2**31 for seed in first)


def test_a_sampled_request_of_the_embedded_model_takes_the_next_seed_and_a_greedy_one_none() -> None:
    def body(temperature: float) -> dict[str, object]:
        config = lm15.Config(max_tokens=8, temperature=temperature)
        return _body(lm15.Request(model="m", messages=(lm15.Message.user("hi"),), config=config))

    with repeatable_seeds("a"):
        assert "seed" not in body(0.0)
        assert body(0.7)["seed"] == drawn("a", 1)[0]
