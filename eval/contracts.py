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
class UserView:
    """What a method may see of a user: the history and the task, never a query or a gold.

    Attributes:
        history: In time order, all of it older than the user's queries.
        seed: Of everything random.
        others: How often the histories of all other users of the run gave each label or rating before
            this user's queries.
            Empty where responses are text: another user's words never come here.
    """

    user_id: str
    task: Task
    history: Sequence[Interaction]
    seed: int
    others: Mapping[str, int] = field(default_factory=dict)


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

    A user is served in three steps: ``prepare`` may be slow and may ask the model (summaries,
    alignment), and what it learned is stored, so it is paid for once, also when the run is killed
    and started again; ``open`` turns that into whatever ``answer`` needs, without asking the
    model; ``answer`` is called once for each query, in the file's order, by one thread. All run
    under the runner's language model and tracker. They raise what they like: the runner turns it
    into `Failed`. A method that calls the model itself asks `program.usage.reserve_call` first.

    `eval.methods.base.BaseMethod` has all of it but ``answer``.
    """

    @property
    def name(self) -> str:
        """As users type it."""
        ...

    @property
    def trivial(self) -> bool:
        """Whether it is a trivial baseline: one that needs no model."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Every setting that changes the result, as plain data."""
        ...

    def check(self, task: Task) -> None:
        """Raise `ConfigError` where the method makes no sense for ``task``."""
        ...

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Return what was learned about this user, from the history only, as plain data for JSON."""
        ...

    def open(self, user: UserView, learned: Mapping[str, Any]) -> Any:
        """Return what ``answer`` needs for this user."""
        ...

    def answer(self, prepared: Any, query: Query) -> Answer:
        """Answer one query; its ``gold`` is always ``None`` here."""
        ...
