"""A user's history as a DSPy trainset."""

from __future__ import annotations

import random
from collections.abc import Sequence

import dspy

from program.errors import ConfigError
from program.memory.base import Memory
from program.task import Task


def examples(
    memory: Memory, task: Task, *, seed: int = 0, negatives: Sequence[str] = ()
) -> list[dspy.Example]:
    """Return a user's history as a trainset, oldest first.

    Each example has the fields ``query``, ``response`` and ``before``; ``query`` and ``before`` are
    inputs, so an agent that answers one sees only what came before it. If a task's history holds no
    questions (LaMP-1), questions are constructed; interactions without one are left out.

    Args:
        memory: The user's interactions.
        task: What the user is asked.
        seed: Seed of the constructed questions.
        negatives: Wrong options for constructed questions (LaMP-1: titles that others cited).

    Example:
        >>> from program import EpisodicMemory, Interaction, get_task
        >>> film = Interaction(id="1", user_id="ana", query="A heist goes wrong.", response="action")
        >>> examples(EpisodicMemory("ana", [film]), get_task("LaMP-2M"))[0].inputs().toDict()
        {'query': 'A heist goes wrong.', 'before': '1'}
    """
    history = memory.latest()
    if task.pairs is None:
        return [_example(item.query, item.response, item.id) for item in history]
    pairs = task.pairs(history, negatives, random.Random(seed))
    return [_example(pair.query, pair.response, pair.interaction.id) for pair in pairs]


def check_trainset(trainset: Sequence[dspy.Example]) -> None:
    """Refuse a trainset whose rollouts could look up their own answers.

    Raises:
        ConfigError: An example lacks ``query``, ``response`` or ``before``.
    """
    for number, example in enumerate(trainset):
        for name in ("query", "response", "before"):
            if example.get(name) is None:
                raise ConfigError(
                    f"`trainset[{number}]` has no `{name}`; make the trainset with `optimizers.examples(...)`"
                )


def _example(query: str, response: str, interaction_id: str) -> dspy.Example:
    return dspy.Example(query=query, response=response, before=interaction_id).with_inputs("query", "before")
