"""What a method is, what it may see, and what comes back: the seam between methods and runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from program.memory.interaction import Interaction
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question of the evaluation. ``gold`` is ``None`` for files without answers."""

    id: str
    user_id: str
    text: str
    gold: str | None = None
    timestamp: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvalUser:
    """One user of a data set: a history, and queries that are all newer than it."""

    user_id: str
    history: tuple[Interaction, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a method may see of a user: the history and the task, never a query or a gold."""

    user_id: str
    task: Task
    history: Sequence[Interaction]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A method's answer to one query.

    Attributes:
        text: As it will be scored. Where the model's output did not fit the task's type, the raw
            output, with ``valid=False``: it is scored as the scorer scores it and counted.
        steps: What was done on the way, as plain data (tool calls and observations, retrieved ids).
    """

    text: str
    valid: bool = True
    steps: Sequence[Mapping[str, Any]] = ()
    probabilities: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A query without an answer. It is kept, shown as missing, and never becomes a wrong answer."""

    stage: Literal["prepare", "answer"]
    kind: str
    error: str


class Method(Protocol):
    """A way to answer a task for a user. One instance serves all users; it keeps no user state.

    ``prepare`` may be slow (summaries, alignment) and is called once for each user; ``answer``
    once for each query. Both run under the runner's language model and ledger. They raise what
    they like: the runner turns it into `Failed`.
    """

    name: str

    def settings(self) -> Mapping[str, Any]:
        """Every setting that changes the result, as plain data."""
        ...

    def prepare(self, subject: Subject) -> Any:
        """Return what ``answer`` needs for this user, made from the history only."""
        ...

    def answer(self, prepared: Any, query: Query) -> Answer:
        """Answer one query."""
        ...
