"""The base class of most methods: its dataclass fields are the settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from program.loop import AgentSettings
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class BaseMethod(ABC):
    """A method as a frozen dataclass whose fields are its settings (see `eval.contracts.Method`).

    A subclass defines ``name`` and `answer`. By default it prepares nothing, and `answer` receives the
    `UserView`.

    Example:
        >>> from dataclasses import dataclass
        >>> from eval import Answer, BaseMethod
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Latest(BaseMethod):
        ...     name = "latest"
        ...     trivial = True  # it needs no model
        ...     back: int = 1
        ...
        ...     def answer(self, prepared, query):
        ...         return Answer(text=prepared.history[-self.back].response)
        >>> Latest(back=2).settings()
        {'back': 2}
    """

    name: ClassVar[str]
    trivial: ClassVar[bool] = False

    @property
    def learns_from_other(self) -> bool:
        """Whether `prepare` gets the view of another user, as a control."""
        return False

    def settings(self) -> Mapping[str, Any]:
        """Return the dataclass fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check(self, task: Task) -> None:  # noqa: B027 - most methods serve every task
        """Accept every task."""

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Prepare nothing."""
        return {}

    def open(self, user: UserView, learned: Mapping[str, Any]) -> Any:
        """Return the user."""
        return user

    @abstractmethod
    def answer(self, prepared: Any, query: Query) -> Answer:
        """Answer one query."""


@dataclass(frozen=True, kw_only=True)
class ShowsHistory(BaseMethod):
    """A method without an agent that shows some of the user's interactions with the query.

    Attributes:
        k: Interactions shown with a query.
        item_chars: Most characters shown of one interaction.
        history: Their form in the question: examples or findings (see `program.loop.AgentSettings`).
        last: Which example stands next to the query: similar or newest.
    """

    k: int = AgentSettings.k
    item_chars: int = AgentSettings.item_chars
    history: str = AgentSettings.history
    last: str = AgentSettings.last

    def __post_init__(self) -> None:
        _ = self.form  # checks the settings

    @property
    def form(self) -> AgentSettings:
        """The settings of the final question."""
        return AgentSettings(k=self.k, item_chars=self.item_chars, history=self.history, last=self.last)
