"""The parts of a report: sections with text, tables, figures and case studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.report.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart and its numbers.

    Attributes:
        caption: How to read the chart.
        alt: Text alternative for screen readers.
        svg: The chart.
        numbers: Every number in the chart; its name and title are the figure's.
        open: Whether the page shows the numbers unfolded.
    """

    caption: str
    alt: str
    svg: str
    numbers: Table
    open: bool = False


@dataclass(frozen=True)
class Change:
    """A piece of a word diff."""

    kind: Literal["same", "removed", "added"]
    text: str


@dataclass(frozen=True, kw_only=True)
class CaseStep:
    """One persona update of a case study.

    Attributes:
        title: Such as ``Update 1``.
        decision: Whether the update was accepted, and why.
        feedback: Pairs of a rollout's summary and the feedback on it.
        changes: The rewrite as a diff from the persona before.
    """

    title: str
    decision: str
    feedback: Sequence[tuple[str, str]]
    changes: Sequence[Change]


@dataclass(frozen=True, kw_only=True)
class CaseStudy:
    """How one user's persona changed.

    Attributes:
        title: The user's pseudonym and why this user was selected.
        persona: The initial persona; displayed if there are no steps.
    """

    title: str
    persona: str
    steps: Sequence[CaseStep]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the report.

    Attributes:
        id: Anchor on the page.
        text: Paragraphs below the title.
        tables: Tables that are displayed in full.
        folded_tables: Tables that the page folds and the Markdown file links to.
    """

    id: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    cases: Sequence[CaseStudy] = ()
    folded_tables: Sequence[Table] = ()
