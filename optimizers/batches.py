"""Batch rules: which past interactions an alignment learns from (see `optimizers.contracts`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import dspy

from optimizers.contracts import BatchSelector, Score
from program.errors import ConfigError
from program.limits import MANY, check_at_most
from program.plugins import Registry

BATCH_RULES = Registry(
    kind="batch rule",
    group="personaagent.batches",
    built_in={
        "latest": "optimizers.batches:Latest",
        "balanced": "optimizers.batches:Balanced",
        "hardest": "optimizers.batches:Hardest",
    },
    members=("pool_size", "select"),
)
"""Every batch rule that can be named."""


@dataclass(frozen=True)
class Latest(BatchSelector):
    """The latest interactions (paper, Algorithm 1).

    Example:
        >>> Latest().select(["oldest", "older", "newest"], [], 2)
        ['older', 'newest']
    """

    def select(
        self, trainset: Sequence[dspy.Example], scores: Sequence[Score], size: int
    ) -> list[dspy.Example]:
        """Return the last ``size`` examples."""
        return list(trainset[-size:])


@dataclass(frozen=True)
class Balanced(BatchSelector):
    """The latest interactions, each response in turn: useful if a user gives one response most often."""

    def select(
        self, trainset: Sequence[dspy.Example], scores: Sequence[Score], size: int
    ) -> list[dspy.Example]:
        """Return the newest example of each response, then the second newest, and so on."""
        by_response: defaultdict[str, list[int]] = defaultdict(list)
        for index in reversed(range(len(trainset))):
            by_response[trainset[index].response].append(index)
        turns = chain.from_iterable(zip_longest(*by_response.values()))
        chosen = [index for index in turns if index is not None][:size]
        return [trainset[index] for index in sorted(chosen)]


@dataclass(frozen=True)
class Hardest(BatchSelector):
    """The interactions that the current persona answers worst, of the latest ones.

    Attributes:
        pool_factor: How many times the batch size is scored to find them.
    """

    pool_factor: int = 4

    def __post_init__(self) -> None:
        if self.pool_factor < 1:
            raise ConfigError(f"`pool_factor` must be 1 or more, got {self.pool_factor!r}")
        check_at_most("pool_factor", self.pool_factor, MANY)

    def pool_size(self, size: int) -> int:
        """Return ``pool_factor`` times the batch size."""
        return self.pool_factor * size

    def select(
        self, trainset: Sequence[dspy.Example], scores: Sequence[Score], size: int
    ) -> list[dspy.Example]:
        """Return the examples with the lowest scores; of equal ones the newest.

        Without any score, return the latest.
        """
        pool = trainset[-len(scores) :] if scores else []
        scored = [(score, -index) for index, score in enumerate(scores) if score is not None]
        worst = sorted(-index for _, index in sorted(scored)[:size])
        return [pool[index] for index in worst] or list(trainset[-size:])
