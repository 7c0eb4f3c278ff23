"""Which interactions to learn from."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

import dspy

from optimizers.config import POOL_FACTOR, AlignmentConfig
from program.errors import ConfigError
from program.memory.base import Memory
from program.task import Task


def examples(
    memory: Memory, task: Task, *, seed: int = 0, negatives: Sequence[str] = ()
) -> list[dspy.Example]:
    """Return a user's history as a trainset, oldest first.

    Each example has ``query``, ``response`` and ``before``; ``query`` and ``before`` are inputs, so
    an agent that answers one sees only what came before it. Tasks whose history holds no questions
    (LaMP-1) get constructed ones; interactions without any are left out.

    Args:
        memory: The user's interactions.
        task: What the user is asked.
        seed: For the constructed questions.
        negatives: Wrong options for constructed questions (LaMP-1: titles that others cited).
    """
    history = memory.latest()
    if task.pairs is None:
        return [_example(item.query, item.response, item.id) for item in history]
    pairs = task.pairs(history, negatives, random.Random(seed))
    return [_example(pair.query, pair.response, pair.interaction.id) for pair in pairs]


def _example(query: str, response: str, interaction_id: str) -> dspy.Example:
    return dspy.Example(query=query, response=response, before=interaction_id).with_inputs("query", "before")


def check(trainset: Sequence[dspy.Example]) -> None:
    """Refuse a trainset that would let a simulated interaction be looked up.

    Raises:
        ConfigError: An example lacks ``query``, ``response`` or ``before``.
    """
    for number, example in enumerate(trainset):
        for name in ("query", "response", "before"):
            if example.get(name) is None:
                raise ConfigError(
                    f"`trainset[{number}]` has no `{name}`; make the trainset with `optimizers.examples(...)`"
                )


def candidates(trainset: Sequence[dspy.Example], config: AlignmentConfig) -> list[dspy.Example]:
    """Return the examples to simulate first, oldest first: the batch, or the pool of `hardest`."""
    if config.batch == "balanced":
        return _balanced(trainset, config.batch_size)
    size = config.batch_size * (POOL_FACTOR if config.batch == "hardest" else 1)
    return list(trainset[-size:])


def _balanced(trainset: Sequence[dspy.Example], n: int) -> list[dspy.Example]:
    """Take the newest of each response in turn, the response seen last first."""
    by_response: defaultdict[str, list[int]] = defaultdict(list)
    for index in reversed(range(len(trainset))):
        by_response[trainset[index].response].append(index)
    turns = chain.from_iterable(zip_longest(*by_response.values()))
    chosen = [index for index in turns if index is not None][:n]
    return [trainset[index] for index in sorted(chosen)]
