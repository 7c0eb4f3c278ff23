"""The typed input of a report: runs, methods, answers, personas and sweeps.

Only `eval.report.load` reads run folders and user ids. Everything else sees pseudonyms (``user-01``), so
no table, figure or page can show a user's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.records import Cost
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One query and one method's answer to it.

    Attributes:
        user: Pseudonym.
        key: User id and query id; joins the methods of a run and is never shown.
        gold: The user's true response.
        prediction: The answer as it is scored; ``None`` if it is missing.
        valid: Whether the model's output fitted the task's type.
        probabilities: Label to probability, if the method gives them.
        failure: Why the answer is missing: stage and error type, such as ``answer: LMError``.
    """

    user: str
    key: tuple[str, str]
    gold: str
    prediction: str | None
    valid: bool = True
    probabilities: Mapping[str, float] | None = None
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class RolloutFeedback:
    """One rollout of an alignment (query, the user's response, the agent's answer) and its feedback."""

    query: str
    truth: str
    answer: str
    feedback: str


@dataclass(frozen=True, kw_only=True)
class PersonaUpdate:
    """One alignment step: the persona, its rewrite, and whether the rewrite was accepted."""

    before: str
    candidate: str
    accepted: bool
    reason: str
    feedback: Sequence[RolloutFeedback] = ()


@dataclass(frozen=True, kw_only=True)
class Persona:
    """One user's persona under one method.

    Attributes:
        user: Pseudonym.
        initial: The text before alignment.
        final: The text that the answers were given with.
        updates: The steps from ``initial`` to ``final``, in order; empty if they were not recorded.
    """

    user: str
    initial: str
    final: str
    updates: Sequence[PersonaUpdate] = ()


@dataclass(frozen=True, kw_only=True)
class MethodRun:
    """One method's answers to all queries of a run, in the same order for every method.

    Attributes:
        name: The method's label in the run: ``rag:k=8``.
        family: The method's own name: ``rag``.
        trivial: Whether it is a trivial baseline, which needs no model.
        settings: Every setting that changes its answers.
        personas: One for each user, if the method has personas.
        prepare: Cost of all attempts to prepare users.
        answer: Cost of all attempts to answer.
        prepared_users: Number of users with an attempt to prepare them.
        given_answers: Number of answers given, including those to queries without a gold.
        rollouts: Number of agent rollouts used to prepare users.
    """

    name: str
    family: str
    trivial: bool
    settings: Mapping[str, Any]
    answers: Sequence[AnswerRow]
    personas: Sequence[Persona]
    prepare: Cost
    answer: Cost
    prepared_users: int
    given_answers: int
    rollouts: int = 0

    @property
    def missing(self) -> int:
        """Number of queries without an answer."""
        return sum(answer.prediction is None for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """One run of one or more methods on one task.

    Attributes:
        lamp_like: Whether the data are not LaMP's own, so that no score may be called a LaMP score.
        model: Name of the model that answered; empty if only baselines ran.
        facts: What is needed to reproduce the run, as labels and values.
        defects: Known defects of the data, one line each.
    """

    task: Task
    lamp_like: bool
    model: str
    methods: Sequence[MethodRun]
    facts: Sequence[tuple[str, str]]
    defects: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The task's name, which says if the data are not LaMP's: ``LaMP-2M``, ``LaMP-like 2M``."""
        name = self.task.name
        return f"LaMP-like {name.removeprefix('LaMP-')}" if self.lamp_like and "LaMP-" in name else name

    @property
    def users(self) -> Sequence[str]:
        """Pseudonyms, sorted."""
        return sorted({answer.user for answer in self.methods[0].answers})


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One run of a sweep and its value of the setting."""

    value: str
    run: ReportRun


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs that differ in one setting.

    Attributes:
        name: File name of the sweep's figure, unique within a report.
        setting: What differs: ``batch``, ``steps``, ``k``, ``model``, ``users`` or ``queries``.
        points: Sorted if all values are numbers, otherwise in the order of the sweep folder.
    """

    name: str
    setting: str
    points: Sequence[SweepPoint]


@dataclass(frozen=True, kw_only=True)
class Study:
    """The contents of one folder: a run, sweeps, or both; never neither."""

    run: ReportRun | None
    sweeps: Sequence[Sweep] = ()

    @property
    def any_run(self) -> ReportRun:
        """The run, or the first run of the first sweep."""
        return self.run or self.sweeps[0].points[0].run
