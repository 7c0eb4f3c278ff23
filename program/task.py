"""Tasks: what users are asked, the type of the answer, and how history files are read.

A task is a declaration in one file. Installed tasks are found by name through the entry point
group ``personaagent.tasks`` (ours live in ``eval/tasks``, yours in any package); a path
``module:ATTRIBUTE`` works too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple

from program.answers import AnswerType, Text
from program.errors import ConfigError, UnknownTaskError
from program.memory.interaction import Interaction
from program.plugins import load_path


class Item(NamedTuple):
    """One profile item of a history file: the query and the user's response.

    Example:
        >>> Item("A heist goes wrong.", "twist ending").response
        'twist ending'
    """

    query: str
    response: str


class Pair(NamedTuple):
    """A question constructed from a past interaction, for tasks whose history holds no questions.

    Example:
        >>> from program import Interaction
        >>> paper = Interaction(id="7", user_id="ana", query="Graphs", response="cites Trees")
        >>> Pair(paper, "Which does it cite, [1] Trees or [2] Seas?", "[1]").response
        '[1]'
    """

    interaction: Interaction
    query: str
    response: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question.

    Attributes:
        name: As users type it: ``LaMP-2M``.
        question: The instruction that goes with every query, without the item.
        answer: The type of the agent's answer to a query.
        history_answer: The type of the responses in the history; ``None`` if it is that of `answer`.
        read_item: Returns the query and the response of a profile item in LaMP or OPPU files;
            raises `KeyError` with the name of a missing field.
        read_query: Returns the query text alone from the ``input`` of a query in those files.
        item_noun: The word for a query in prompts: "movie description".
        response_noun: The word for a response in prompts: "tag".
        pairs: Makes alignment questions from a history; ``None`` if its items are questions
            already. The second argument is a pool of wrong options, never another user's text
            (LaMP-1: public paper titles; empty: the task's own pool). Returns an empty list if
            the history holds nothing to align on.
        metrics: Names of the corpus metrics in `eval.metrics`, main one first.

    Example:
        >>> from program import Item, Labels, Task
        >>> genre = Task(
        ...     name="genre",
        ...     question="Which genre would this user give the film?",
        ...     answer=Labels(("comedy", "drama")),
        ...     read_item=lambda item: Item(item["film"], item["genre"]),
        ...     read_query=str.strip,
        ... )
        >>> genre.read_item({"film": "Two clowns.", "genre": "comedy"})
        Item(query='Two clowns.', response='comedy')
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
    metrics=("chrf", "rouge-L"),
)
"""The task of users imported without one: any request, any text."""


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def task_names() -> list[str]:
    """Return the names of all installed tasks, sorted."""
    return sorted({FREE_TEXT.name, *(point.name for point in entry_points(group="personaagent.tasks"))})


@cache
def get_task(name: str) -> Task:
    """Return the task called ``name`` or at ``module:ATTRIBUTE``.

    Names ignore case, and ``_`` equals ``-``.

    Raises:
        UnknownTaskError: The task is not installed (the message lists those that are), cannot be
            loaded, or is not a `Task`.

    Example:
        >>> get_task("free-text").question
        'Answer the request as this user would want it answered.'
        >>> get_task("lamp_3").name
        'LaMP-3'
    """
    if not isinstance(name, str):
        raise UnknownTaskError(f"a task is named by text such as 'free-text', not by a {type(name).__name__}")
    if _key(name) == FREE_TEXT.name:
        return FREE_TEXT
    task = _load_task(name)
    if not isinstance(task, Task):
        raise UnknownTaskError(f"{name!r} is not a `Task` but a {type(task).__name__}")
    return task


def task_spec(task: str | Task) -> str:
    """Return the name or path by which `get_task` finds a task again: what stores and runs keep.

    Raises:
        UnknownTaskError: ``task`` is a name or path that cannot be loaded.
        ConfigError: ``task`` is a `Task` that is not installed, or stands in a script.

    Example:
        >>> task_spec("lamp_3"), task_spec(get_task("free-text"))
        ('LaMP-3', 'free-text')
        >>> task_spec("program.task:FREE_TEXT")
        'free-text'
    """
    target = task if isinstance(task, Task) else get_task(task)
    if ":" not in target.name and find_task(target.name) is target:
        return target.name
    if isinstance(task, Task):
        raise ConfigError(
            f"task {task.name!r} is not installed, so it could not be found again; give its path, "
            "`module:TASK`"
        )
    if task.startswith("__main__:"):
        raise ConfigError(
            f"task {task!r} is in a script, so it could not be found again; move it to a module"
        )
    return task


@cache
def find_task(name: str) -> Task | None:
    """Return the task like `get_task`; ``None`` if there is none."""
    try:
        return get_task(name)
    except UnknownTaskError:
        return None


def _load_task(name: str) -> object:
    for point in entry_points(group="personaagent.tasks"):
        if _key(point.name) == _key(name):
            return point.load()
    if ":" not in name:
        raise UnknownTaskError(
            f"unknown task {name!r}; use one of {', '.join(task_names())}, or module:ATTRIBUTE"
        )
    try:
        return load_path(name, f"task {name!r}")
    except ConfigError as error:
        raise UnknownTaskError(str(error)) from error
