"""The contract between methods and the runner: what a method is, what it may see, what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from program.memory.interaction import Interaction
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question of an evaluation.

    Attributes:
        id: Unique within the user.
        text: The query text, without the task's question.
        gold: The user's true response; ``None`` if the data have none, and always in a method.
        timestamp: When the query was asked, if known.
        metadata: Further fields of the data set.

    Example:
        >>> query = Query(id="q1", user_id="ana", text="A heist goes wrong.", gold="action")
        >>> query.timestamp is None
        True
    """

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
        history: In time order, and older than the user's queries.
        seed: Seed of every random choice.
        others: Number of times that the histories of all other users of the run gave each label or
            rating before this user's queries. Empty if responses are text, because a method never
            sees another user's words.

    Example:
        >>> from program import Interaction, get_task
        >>> film = Interaction(id="1", user_id="ana", query="A heist goes wrong.", response="action")
        >>> user = UserView(user_id="ana", task=get_task("LaMP-2M"), history=[film], seed=0)
        >>> user.history[-1].response
        'action'
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
        text: The text that is scored.
        valid: Whether the model's output fitted the task's type. If not, ``text`` is the raw output,
            which is scored like any other and counted as invalid.
        steps: The steps before the answer as JSON data, such as tool calls and retrieved ids.
        probabilities: Label to probability, if the model reports them.

    Example:
        >>> answer = Answer(text="action", steps=[{"tool": "search_memory", "query": "heist"}])
        >>> answer.text, answer.valid
        ('action', True)
    """

    text: str
    valid: bool = True
    steps: Sequence[Mapping[str, Any]] = ()
    probabilities: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A query without an answer. It is kept, reported as missing, and never counts as a wrong answer."""

    stage: Literal["prepare", "answer"]
    kind: str
    error: str


class Method(Protocol):
    """Answers a task's queries for any user. One instance serves all users and keeps no user state.

    The runner calls ``prepare``, ``open`` and ``answer`` for each user. ``prepare`` may be slow and
    call the model (summaries, alignment). Its return value is stored, so a resumed run does not pay
    for it again. ``open`` turns that value into whatever ``answer`` needs, without calling the
    model. ``answer`` is called once for each query, in the file's order, by one thread.

    All three run under the runner's language model and usage tracker. Call
    `program.usage.reserve_call` before each direct model call.

    Failure: any exception becomes a `Failed` record, and the run continues.

    `eval.methods.base.BaseMethod` implements everything but ``answer``.
    """

    @property
    def name(self) -> str:
        """The name that users type."""
        ...

    @property
    def trivial(self) -> bool:
        """Whether it is a trivial baseline, which needs no model."""
        ...

    @property
    def learns_from_other(self) -> bool:
        """Whether ``prepare`` gets another user's view, as a control; a method without it: no."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Return every setting that changes the result, as JSON data."""
        ...

    def check(self, task: Task) -> None:
        """Raise `ConfigError` if the method does not fit ``task`` or cannot run; call no model."""
        ...

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Return what the method learns from the user's history, as JSON data."""
        ...

    def open(self, user: UserView, learned: Mapping[str, Any]) -> Any:
        """Return what ``answer`` needs for this user.

        Args:
            user: The user.
            learned: The return value of ``prepare``, read back from JSON: tuples are lists.
        """
        ...

    def answer(self, prepared: Any, query: Query) -> Answer:
        """Answer one query.

        Args:
            prepared: The return value of ``open``.
            query: The query, without its gold.
        """
        ...
