"""Floors: what needs no model. A method that is not above them has shown nothing."""

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
    """Always the same answer.

    Attributes:
        value: The answer; empty means the first label, or the middle of the scale (rounded up).
    """

    name: ClassVar[str] = "constant"
    trivial: ClassVar[bool] = True
    value: str = ""

    def check(self, task: Task) -> None:
        """Refuse a value that is no answer to the task, and text tasks without a value."""
        if isinstance(task.answer, Text) and not self.value:
            raise ConfigError(
                f"`constant` needs a `value` for `{task.name}`, whose answers are text; `lead` is its floor"
            )
        try:
            task.answer.parse(self.value or self._default(task))
        except UnparsableAnswerError as error:
            raise ConfigError(f"`value` is no answer to `{task.name}`: {error}") from error

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
class _Counted(BaseMethod):
    """A floor that needs histories whose responses are answers to the task."""

    trivial: ClassVar[bool] = True

    def check(self, task: Task) -> None:
        """Refuse tasks whose histories hold no answers of the task's own closed type."""
        if isinstance(task.answer, Text) or task.response_type != task.answer:
            raise ConfigError(
                f"`{self.name}` needs histories of labels or ratings; those of `{task.name}` hold none"
            )

    def answer(self, prepared: str, query: Query) -> Answer:
        """Return what `open` chose."""
        return Answer(text=prepared)


@dataclass(frozen=True, kw_only=True)
class GlobalMajority(_Counted):
    """The response most frequent in the histories of all other users (ties: alphabetical)."""

    name: ClassVar[str] = "global-majority"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> str:
        """Choose the response."""
        if not user.others:
            return Constant().open(user, learned)
        return min(user.others, key=lambda response: (-user.others[response], response))


@dataclass(frozen=True, kw_only=True)
class UserMajority(_Counted):
    """The user's own most frequent response (ties: the one given last)."""

    name: ClassVar[str] = "user-majority"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> str:
        """Choose the response."""
        newest_first = [item.response for item in reversed(user.history)]
        if not newest_first:
            return GlobalMajority().open(user, learned)
        # `Counter` keeps the order of first appearance among equal counts.
        return Counter(newest_first).most_common(1)[0][0]


@dataclass(frozen=True, kw_only=True)
class UserMedian(_Counted):
    """The median of the user's ratings (of two middle ones the lower): the best constant for MAE."""

    name: ClassVar[str] = "user-median"

    def check(self, task: Task) -> None:
        """Refuse tasks without ratings."""
        if not isinstance(task.answer, Rating):
            raise ConfigError(f"`{self.name}` needs a task of ratings, `{task.name}` is none")

    def open(self, user: UserView, learned: Mapping[str, Any]) -> str:
        """Choose the rating."""
        if not user.history:
            return GlobalMajority().open(user, learned)
        return str(statistics.median_low(int(item.response) for item in user.history))


@dataclass(frozen=True, kw_only=True)
class CitedBefore(BaseMethod):
    """LaMP-1: the option that the user's papers cite already, else the first.

    Only histories that name a cited title can say so (OPPU's layout).
    """

    name: ClassVar[str] = "cited-before"
    trivial: ClassVar[bool] = True

    def check(self, task: Task) -> None:
        """Refuse tasks other than LaMP-1."""
        if task.name != "LaMP-1":
            raise ConfigError(f"`{self.name}` is a floor of LaMP-1, not of `{task.name}`")

    def open(self, user: UserView, learned: Mapping[str, Any]) -> frozenset[str]:
        """Return the titles cited so far."""
        return frozenset(_plain(item.response) for item in user.history if item.response)

    def answer(self, prepared: frozenset[str], query: Query) -> Answer:
        """Return the option cited before."""
        try:
            cited = [_plain(title) in prepared for title in options(query.text)]
        except DataError:
            # One of the known defects of the files: a query that shows no two options.
            return Answer(text="[1]")
        return Answer(text="[2]" if cited == [False, True] else "[1]")


@dataclass(frozen=True, kw_only=True)
class Lead(BaseMethod):
    """Text tasks: the beginning of the text that was asked about.

    Attributes:
        words: How many words of it.
    """

    name: ClassVar[str] = "lead"
    trivial: ClassVar[bool] = True
    words: int = 10

    def check(self, task: Task) -> None:
        """Refuse tasks whose answers are no text."""
        if not isinstance(task.answer, Text):
            raise ConfigError(f"`{self.name}` needs a task whose answers are text, `{task.name}` is none")

    def answer(self, prepared: UserView, query: Query) -> Answer:
        """Return the first words."""
        return Answer(text=" ".join(query.text.split()[: self.words]))


def _plain(title: str) -> str:
    return " ".join(title.lower().split())
