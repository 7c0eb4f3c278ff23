"""Selects users of a data set, and how much of each to use."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval.contracts import EvalUser
from program.errors import ConfigError
from program.limits import MANY, check_at_most


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The part of the data to use. ``None`` means all.

    Attributes:
        users: Number of users.
        order: Which users: the first in the file, those with the longest history (ties: first in
            the file; OPPU's test users are the 100 most active), or a random sample.
        history: Number of history items of each user (cold start: 10).
        history_from: Use the latest or the earliest history items.
        queries: Number of queries of each user, the first in the file.
        drop_repeats: Drop history items that give an answer away. LaMP keeps them.
        seed: Seed of the random sample.

    Raises:
        ConfigError: A number is too small, or a name is unknown.

    Example:
        >>> selection = Selection(users=2, order="most-active", history=10)
        >>> selection.pick(history_lengths=[5, 80, 12])
        [1, 2]
    """

    users: int | None = None
    order: Literal["file", "most-active", "random"] = "file"
    history: int | None = None
    history_from: Literal["last", "first"] = "last"
    queries: int | None = None
    drop_repeats: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("history", 0), ("queries", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"`{name}` must be at least {least}, got {value!r}")
            check_at_most(name, value or 0, MANY)
        if self.order not in ("file", "most-active", "random"):
            raise ConfigError(f"`order` must be file, most-active or random, got {self.order!r}")
        if self.history_from not in ("last", "first"):
            raise ConfigError(f"`history_from` must be last or first, got {self.history_from!r}")

    def pick(self, history_lengths: Sequence[int]) -> list[int]:
        """Return the ascending positions of the selected users, given each user's history length."""
        positions = range(len(history_lengths))
        if self.users is None or self.users >= len(history_lengths):
            return list(positions)
        if self.order == "random":
            return sorted(random.Random(self.seed).sample(positions, self.users))
        if self.order == "most-active":
            ranked = sorted(positions, key=lambda position: -history_lengths[position])
            return sorted(ranked[: self.users])
        return list(positions[: self.users])

    def cut(self, user: EvalUser, repeats: frozenset[str] = frozenset()) -> EvalUser:
        """Return ``user`` with only the selected history and queries."""
        history = user.history
        if self.drop_repeats:
            history = tuple(interaction for interaction in history if interaction.id not in repeats)
        if self.history is not None:
            start = max(0, len(history) - self.history) if self.history_from == "last" else 0
            history = history[start : start + self.history]
        return replace(user, history=history, queries=user.queries[: self.queries])
