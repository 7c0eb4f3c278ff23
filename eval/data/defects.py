"""What can be wrong with data that can still be used: counted and reported, never hidden."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

DefectKind = Literal[
    "query-unreadable",
    "query-opening",
    "gold-type",
    "response-type",
    "no-rating",
    "duplicate-item",
    "duplicate-query",
    "date-unreadable",
    "not-older",
    "query-item",
    "repeats",
]

MEANING: dict[DefectKind, str] = {
    "query-unreadable": "the item's text was not found in the input; the whole input is asked",
    "query-opening": "the input does not begin with the task's instruction",
    "gold-type": "the gold does not fit the task's answer type",
    "response-type": "a history response does not fit the task's answer type",
    "no-rating": "a history item's rating is no number of the scale; it was dropped",
    "duplicate-item": "two history items of a user had one id; the later one was renamed",
    "duplicate-query": "two queries of a user had one id; the last one counts, as in LaMP's scorer",
    "date-unreadable": "a date was not YYYY, YYYY-MM or YYYY-MM-DD; the item has no time",
    "not-older": "a history item was newer than a query; it was dropped",
    "query-item": "the history held a query of its user; it was dropped",
    "repeats": "a history item has a query's text or free-text gold (LaMP-1: the same paper)",
}


@dataclass(frozen=True)
class Defect:
    """One finding. ``where`` is a position in a file, never an id or a text."""

    kind: DefectKind
    where: str


def summarise(defects: Iterable[Defect], shown: int = 5) -> list[dict[str, Any]]:
    """Return one entry for each kind found: kind, meaning, count and the first places."""
    places: dict[DefectKind, list[str]] = {}
    for defect in defects:
        places.setdefault(defect.kind, []).append(defect.where)
    return [
        {"kind": kind, "meaning": MEANING[kind], "count": len(found), "first": found[:shown]}
        for kind, found in sorted(places.items())
    ]
