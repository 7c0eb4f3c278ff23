"""What is being asked of an agent: the question, the type of its answer, how histories are read.

A task is a declaration in one file. Installed tasks are found by name through the entry point
group ``personaagent.tasks`` (ours live in ``eval/tasks``, a user's in any package); a path
``module:ATTRIBUTE`` works too.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple

from program.answers import AnswerType, Text
from program.errors import UnknownTaskError
from program.memory.interaction import Interaction


class Item(NamedTuple):
    """One profile item of a history file, read: its query and the user's response to it."""

    query: str
    response: str


class Pair(NamedTuple):
    """A constructed question about a past interaction, for tasks whose history has none."""

    interaction: Interaction
    query: str
    response: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question, as `program` needs to know it.

    Attributes:
        name: As users type it: ``LaMP-2M``.
        question: The instruction that goes with every query, without the item.
        answer: The type of the agent's answer to a query.
        history_answer: The type of the responses in the history, where it differs.
        read_item: A profile item of LaMP or OPPU files, to its query and response; raises
            `KeyError` naming a missing field.
        read_query: The ``input`` of a query of those files, to the query text alone.
        item_noun: What one query is, for prompts: "movie description".
        response_noun: What one response is, for prompts: "tag".
        pairs: Makes alignment questions from history where its items are not questions
            themselves; ``None`` where they are. Its second argument is a pool of wrong options
            (LaMP-1: public paper titles; empty: the task's own pool), never another user's text.
            An empty result means that there is nothing to align on.
        metrics: Names of the corpus metrics in `eval.metrics`, main one first.
    """

    name: str
    question: str
    answer: AnswerType
    history_answer: AnswerType | None = None
    read_item: Callable[[Mapping[str, str]], Item]
    read_query: Callable[[str], str]
    item_noun: str = "request"
    response_noun: str = "response"
    pairs: Callable[[Sequence[Interaction], Sequence[str], random.Random], list[Pair]] | None = None
    metrics: tuple[str, ...] = field(default=("accuracy",))

    @property
    def response_type(self) -> AnswerType:
        """The type of a response in the history."""
        return self.history_answer or self.answer


def _plain_item(item: Mapping[str, str]) -> Item:
    return Item(item["query"], item["response"])


FREE_TEXT = Task(
    name="free-text",
    question="Answer the request as this user would want it answered.",
    answer=Text(),
    read_item=_plain_item,
    read_query=str.strip,
    metrics=("rouge-L",),
)
"""The task of users imported without one: any request, any text."""


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def task_names() -> list[str]:
    """Return the names of all installed tasks, sorted."""
    return sorted({FREE_TEXT.name, *(point.name for point in entry_points(group="personaagent.tasks"))})


@cache
def get_task(name: str) -> Task:
    """Return the task called ``name`` (case and ``_``/``-`` do not matter) or at ``module:ATTRIBUTE``.

    Raises:
        UnknownTaskError: No such task; the message lists the installed ones.
    """
    if _key(name) == FREE_TEXT.name:
        return FREE_TEXT
    for point in entry_points(group="personaagent.tasks"):
        if _key(point.name) == _key(name):
            task = point.load()
            break
    else:
        module, _, attribute = name.partition(":")
        if not attribute:
            raise UnknownTaskError(f"unknown task {name!r}; installed: {', '.join(task_names())}")
        try:
            task = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever a module of the user raises while it is imported
            raise UnknownTaskError(f"cannot load task {name!r}: {error}") from error
    if not isinstance(task, Task):
        raise UnknownTaskError(f"{name!r} is not a Task but {type(task).__name__}")
    return task
