"""What a report is made of: a finished run as the tables and figures see it.

Only `eval.report.load` knows how a run folder looks. From here on users are pseudonyms
(``user-01``); the pages, tables and figures cannot show a user's id because they never had it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.records import Cost
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One query and what a method made of it.

    Attributes:
        user: Pseudonym.
        key: Tells queries apart and joins methods; never shown.
        gold: The user's true response.
        prediction: As it is scored; ``None`` where the answer is missing.
        valid: Whether the model's output fitted the task's type, as the method saw it.
        failure: Why it is missing: stage and kind of error, such as ``answer: LMError``.
    """

    user: str
    key: tuple[str, str]
    gold: str
    prediction: str | None
    valid: bool = True
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One simulated interaction of an alignment and the feedback it gave."""

    query: str
    truth: str
    answer: str
    feedback: str


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """One step of an alignment: the persona, its rewrite, and whether the rewrite was kept."""

    before: str
    candidate: str
    accepted: bool
    reason: str
    lessons: Sequence[Lesson] = ()


@dataclass(frozen=True, kw_only=True)
class Persona:
    """One user's persona under one method.

    Attributes:
        user: Pseudonym.
        initial: The text the user began with.
        final: The text that answered.
        rewrites: How ``initial`` became ``final``, in order, where that was recorded.
    """

    user: str
    initial: str
    final: str
    rewrites: Sequence[Rewrite] = ()


@dataclass(frozen=True, kw_only=True)
class MethodRun:
    """One method's answers to all queries of a run, in the same order for every method.

    Attributes:
        name: As the user wrote it: ``rag:k=8``.
        family: The method's own name: ``rag``.
        trivial: Whether it needs no model.
        settings: Every setting that changes its result.
        personas: One for each user, for methods that have personas.
        prepare: What all attempts to prepare users cost.
        answer: What all attempts to answer cost.
        prepared: Users that it was attempted to prepare.
        answered: Answers given, also to queries without a gold.
        agent_runs: Times an agent was let answer a past interaction while users were prepared.
    """

    name: str
    family: str
    trivial: bool
    settings: Mapping[str, Any]
    answers: Sequence[Answered]
    personas: Sequence[Persona]
    prepare: Cost
    answer: Cost
    prepared: int
    answered: int
    agent_runs: int = 0

    @property
    def missing(self) -> int:
        """Queries without an answer."""
        return sum(answer.prediction is None for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """One run of one or more methods on one task.

    Attributes:
        lamp_like: Whether the data is not the official LaMP data, so that no number may be
            called a LaMP number.
        model: Name of the model that answered; empty where only floors ran.
        facts: What it takes to do the run again, as labels and values.
        defects: What is wrong with the data, one line each.
    """

    task: Task
    lamp_like: bool
    model: str
    methods: Sequence[MethodRun]
    facts: Sequence[tuple[str, str]]
    defects: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The task's name, honest about the data: ``LaMP-2M``, or ``LaMP-like 2M``."""
        name = self.task.name
        return f"LaMP-like {name.removeprefix('LaMP-')}" if self.lamp_like and "LaMP-" in name else name

    @property
    def users(self) -> Sequence[str]:
        """Pseudonyms, sorted."""
        return sorted({answer.user for answer in self.methods[0].answers})


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep."""

    value: str
    run: ReportRun


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs that differ in one setting: ``batch``, ``steps``, ``k``, ``model``.

    Attributes:
        name: Tells sweeps of one report apart, in file names.
        points: Numeric values ascending, other values in the order they were asked for.
    """

    name: str
    over: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything in one folder: a run, sweeps, or both; never neither."""

    run: ReportRun | None
    sweeps: Sequence[Sweep] = ()

    @property
    def any_run(self) -> ReportRun:
        """The run, or the first of the first sweep."""
        return self.run or self.sweeps[0].points[0].run
