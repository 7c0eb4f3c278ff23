"""Trivial baselines, which need no model. A useful method beats all that fit the task."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.tasks.lamp_1 import options
from program.answers import Labels, Rating, Text
from program.errors import ConfigError, DataError, UnparsableAnswerError
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class Constant(BaseMethod):
    """Gives the same answer to every query.

    Attributes:
        value: The answer; empty means the first label, or the middle of the scale (rounded up).
    """

    name: ClassVar[str] = "constant"
    trivial: ClassVar[bool] = True
    value: str = ""

    def check(self, task: Task) -> None:
        """Refuse a value that is not an answer to the task, and text tasks without a value."""
        if isinstance(task.answer, Text) and not self.value:
            raise ConfigError(
                f"`constant` needs a `value` for `{task.name}`, which has text answers; or use `lead`"
            )
        try:
            task.answer.parse(self.value or self._default(task))
        except UnparsableAnswerError as error:
            raise ConfigError(f"`value` is not an answer to `{task.name}`: {error}") from error

    def open(self, user: UserView, learned: Mapping[str, Any]) -> str:
        """Return the answer."""
        return self.value or self._default(user.task)

    def answer(self, prepared: str, query: Query) -> Answer:
        """Return the answer."""
        return Answer(text=prepared)

    @staticmethod
    def _default(task: Task) -> str:
        if isinstance(task.answer, Labels):
            return task.answer.values[0]
        return str((task.answer.low + task.answer.high + 1) // 2) if isinstance(task.answer, Rating) else ""


@dataclass(frozen=True, kw_only=True)
class HistoryBaseline(BaseMethod):
    """A baseline that repeats a label or rating from histories; `open` chooses it."""

    trivial: ClassVar[bool] = True

    def check(self, task: Task) -> None:
        """Refuse text tasks, and tasks whose history responses have another type than the answers."""
        if isinstance(task.answer, Text) or task.response_type != task.answer:
            raise ConfigError(
                f"`{self.name}` needs histories of labels or ratings, and those of `{task.name}` have none"
            )

    def answer(self, prepared: str, query: Query) -> Answer:
        """Return the response that `open` chose."""
        return Answer(text=prepared)


@dataclass(frozen=True, kw_only=True)
class GlobalMajority(HistoryBaseline):
    """The most frequent response of all other users (ties: alphabetical)."""

    name: ClassVar[str] = "global-majority"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> str:
        """Choose the response; without other users, that of `Constant`."""
        if not user.others:
            return Constant().open(user, learned)
        return min(user.others, key=lambda response: (-user.others[response], response))


@dataclass(frozen=True, kw_only=True)
class UserMajority(HistoryBaseline):
    """The user's own most frequent response (ties: the latest)."""

    name: ClassVar[str] = "user-majority"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> str:
        """Choose the response; without a history, that of `GlobalMajority`."""
        newest_first = [item.response for item in reversed(user.history)]
        if not newest_first:
            return GlobalMajority().open(user, learned)
        # `Counter` keeps the order of first appearance among equal counts.
        return Counter(newest_first).most_common(1)[0][0]


@dataclass(frozen=True, kw_only=True)
class UserMedian(HistoryBaseline):
    """The median of the user's ratings (the lower of two middle ones): the best constant for MAE."""

    name: ClassVar[str] = "user-median"

    def check(self, task: Task) -> None:
        """Refuse tasks without ratings."""
        if not isinstance(task.answer, Rating):
            raise ConfigError(f"`{self.name}` needs a rating task, and `{task.name}` is not one")

    def open(self, user: UserView, learned: Mapping[str, Any]) -> str:
        """Choose the rating; without a history, that of `GlobalMajority`."""
        if not user.history:
            return GlobalMajority().open(user, learned)
        return str(statistics.median_low(int(item.response) for item in user.history))


@dataclass(frozen=True, kw_only=True)
class CitedBefore(BaseMethod):
    """LaMP-1: the option that the user's papers already cite, otherwise the first.

    Only histories in OPPU's layout name the cited titles.
    """

    name: ClassVar[str] = "cited-before"
    trivial: ClassVar[bool] = True

    def check(self, task: Task) -> None:
        """Refuse tasks other than LaMP-1."""
        if task.name != "LaMP-1":
            raise ConfigError(f"`{self.name}` is a baseline of LaMP-1, not of `{task.name}`")

    def open(self, user: UserView, learned: Mapping[str, Any]) -> frozenset[str]:
        """Return the cited titles."""
        return frozenset(_normalize_title(item.response) for item in user.history if item.response)

    def answer(self, prepared: frozenset[str], query: Query) -> Answer:
        """Return the option whose title was cited; if both or neither was, the first."""
        try:
            cited = [_normalize_title(title) in prepared for title in options(query.text)]
        except DataError:
            # A known defect of LaMP's files: a query without two options.
            return Answer(text="[1]")
        return Answer(text="[2]" if cited == [False, True] else "[1]")


@dataclass(frozen=True, kw_only=True)
class Lead(BaseMethod):
    """Text tasks: the first words of the query.

    Attributes:
        words: How many words.
    """

    name: ClassVar[str] = "lead"
    trivial: ClassVar[bool] = True
    words: int = 10

    def check(self, task: Task) -> None:
        """Refuse tasks without text answers."""
        if not isinstance(task.answer, Text):
            raise ConfigError(f"`{self.name}` needs a task with text answers, and `{task.name}` has none")

    def answer(self, prepared: UserView, query: Query) -> Answer:
        """Return the first words."""
        return Answer(text=" ".join(query.text.split()[: self.words]))


def _normalize_title(title: str) -> str:
    return " ".join(title.lower().split())
