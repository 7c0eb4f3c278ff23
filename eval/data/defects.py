"""Defects of data that can still be used. They are counted and reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from program.errors import DataError

DefectKind = Literal[
    "query-unreadable",
    "query-opening",
    "no-gold",
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
    "query-unreadable": "the input has no recognisable item; the whole input is the query",
    "query-opening": "the input does not begin with the task's instruction",
    "no-gold": "the query has no gold, so its answer is not scored; golds are the query's field `gold` "
    "or a file beside it, such as dev_outputs.json or NAME_golds.json",
    "gold-type": "the gold is not a valid answer of the task",
    "response-type": "a history response is not a valid answer of the task",
    "no-rating": "a history item's rating is not a number on the scale; it was dropped",
    "duplicate-item": "two history items of a user had the same id; the later one was renamed",
    "duplicate-query": "two queries of a user had the same id; the last one counts, as in LaMP's scorer",
    "date-unreadable": "a date was not YYYY, YYYY-MM or YYYY-MM-DD; the item has no time",
    "not-older": "a history item was newer than a query; it was dropped",
    "query-item": "a history item was one of the user's queries; it was dropped",
    "repeats": "a history item has the text or free-text gold of a query (LaMP-1: the same paper)",
}


@dataclass(frozen=True)
class Defect:
    """One defect and its position in a file. It never holds an id or a text."""

    kind: DefectKind
    position: str


def summarise(defects: Iterable[Defect], max_positions: int = 5) -> list[dict[str, Any]]:
    """Return one JSON entry for each kind, sorted by kind, with its count and first positions."""
    positions: dict[DefectKind, list[str]] = {}
    for defect in defects:
        positions.setdefault(defect.kind, []).append(defect.position)
    return [
        {"kind": kind, "meaning": MEANING[kind], "count": len(places), "first": places[:max_positions]}
        for kind, places in sorted(positions.items())
    ]


def check_summary(entries: object, location: str) -> None:
    """Raise `DataError`, which starts with ``location``, if stored entries of `summarise` are damaged."""
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise DataError(
            f"{location}: field `defects_in_files` is damaged; it needs a list of objects with `kind`, "
            "`meaning` and `count`"
        )


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("count"), int):
        return False
    return isinstance(entry.get("kind"), str) and isinstance(entry.get("meaning"), str)
