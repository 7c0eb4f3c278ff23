"""What a report is built from: sections of text, tables, figures and cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.report.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart and the numbers it shows.

    Attributes:
        caption: How to read it.
        alt: What it shows, for those who cannot see it.
        svg: The chart.
        numbers: Every number in the chart; gives the figure its title and file name.
        open: Whether the page shows the numbers unfolded.
    """

    caption: str
    alt: str
    svg: str
    numbers: Table
    open: bool = False


@dataclass(frozen=True)
class Change:
    """A stretch of a text that stayed, went or came."""

    kind: Literal["same", "gone", "new"]
    text: str


@dataclass(frozen=True, kw_only=True)
class CaseStep:
    """One rewrite of a persona: the feedback, the decision, and what became of the text."""

    title: str
    decision: str
    lessons: Sequence[tuple[str, str]]
    changes: Sequence[Change]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One user's persona and how it came about.

    Attributes:
        title: Pseudonym and why this user is shown.
        persona: The text the user began with; shown where there is no step.
    """

    title: str
    persona: str
    steps: Sequence[CaseStep]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the report.

    Attributes:
        id: Anchor on the page.
        text: Paragraphs above everything else.
        tables: Shown openly.
        more: Shown folded on the page.
    """

    id: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    cases: Sequence[Case] = ()
    more: Sequence[Table] = ()
