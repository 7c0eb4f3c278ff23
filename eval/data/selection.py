"""Which users of a data set, and how much of their history: everything that changes a result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval.contracts import EvalUser
from program.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which part of the data is used; ``None`` means all.

    Attributes:
        users: How many users.
        order: Which users those are: the first of the file, those with the longest history
            (equal lengths: first in the file; OPPU's test users are the 100 most active), or a
            random sample.
        history: How many history items of each user (cold start: 10).
        history_from: Whether the latest of them or the earliest.
        queries: How many queries of each user, the first of the file.
        drop_repeats: Whether history items that give an answer away are left out. LaMP has them in.
        seed: Of the random sample.
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
        if self.order not in ("file", "most-active", "random"):
            raise ConfigError(f"`order` must be file, most-active or random, got {self.order!r}")
        if self.history_from not in ("last", "first"):
            raise ConfigError(f"`history_from` must be last or first, got {self.history_from!r}")

    def pick(self, history_lengths: Sequence[int]) -> list[int]:
        """Return the positions of the selected users, ascending, given each user's history length."""
        everyone = range(len(history_lengths))
        if self.users is None or self.users >= len(history_lengths):
            return list(everyone)
        if self.order == "random":
            return sorted(random.Random(self.seed).sample(everyone, self.users))
        if self.order == "most-active":
            ranked = sorted(everyone, key=lambda position: -history_lengths[position])
            return sorted(ranked[: self.users])
        return list(everyone[: self.users])

    def cut(self, user: EvalUser, repeats: frozenset[str] = frozenset()) -> EvalUser:
        """Return ``user`` with only the selected history and queries."""
        history = user.history
        if self.drop_repeats:
            history = tuple(interaction for interaction in history if interaction.id not in repeats)
        if self.history is not None:
            start = max(0, len(history) - self.history) if self.history_from == "last" else 0
            history = history[start : start + self.history]
        return replace(user, history=history, queries=user.queries[: self.queries])
