"""What most methods share: settings are their dataclass fields, nothing is learned beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class BaseMethod(ABC):
    """A method as a frozen dataclass: its fields are its settings (see `eval.contracts.Method`).

    A subclass gives ``name`` and `answer`; without more it learns nothing, and `answer` gets the
    `UserView` itself.
    """

    name: ClassVar[str]
    trivial: ClassVar[bool] = False

    def settings(self) -> Mapping[str, Any]:
        """Return the dataclass fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check(self, task: Task) -> None:  # noqa: B027 - most methods serve every task
        """Accept every task."""

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Learn nothing."""
        return {}

    def open(self, user: UserView, learned: Mapping[str, Any]) -> Any:
        """Return the user."""
        return user

    @abstractmethod
    def answer(self, prepared: Any, query: Query) -> Answer:
        """Answer one query."""
