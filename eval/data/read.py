"""From a record of a file to a user: times parsed, order checked, nothing newer than a query kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from eval.contracts import EvalUser, Query
from eval.data.defects import Defect, DefectKind
from eval.data.raw import RawQuery, RawUser
from eval.metrics import as_number
from eval.tasks.base import LampTask
from program.answers import Rating, fits
from program.errors import DataError
from program.memory.interaction import Interaction
from program.task import Task

_OPENING_WORDS = 3


@dataclass(frozen=True)
class Reading:
    """A user and what was found wrong with the record.

    Attributes:
        repeats: Ids of history items that give an answer away (see `repeated`).
    """

    user: EvalUser
    repeats: frozenset[str]
    defects: tuple[Defect, ...] = ()


def read_user(raw: RawUser, task: Task) -> Reading:
    """Return the user of one record.

    The history is in time order, items without a time first, equal times as the file has them.
    Dates are days or years, so an item of a query's own date stays: the file puts it before.

    Raises:
        DataError: A profile item lacks a field of the task.
    """
    return _Reader(raw, LampTask.of(task)).read()


def repeated(user: EvalUser, task: Task) -> frozenset[str]:
    """Return the ids of history items that share a key with a query (see `LampTask.item_keys`)."""
    lamp = LampTask.of(task)
    asked = {key for query in user.queries for key in lamp.query_keys(query.text, query.gold)}
    return frozenset(item.id for item in user.history if asked & lamp.item_keys(item))


def parse_date(text: str | None) -> datetime | None:
    """Return ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD`` as the start of that time in UTC.

    Raises:
        ValueError: Another form.
    """
    if text is None or not text.strip():
        return None
    parts = [int(part) for part in text.strip().split("-")]
    if len(parts) > 3:
        raise ValueError(text)
    year, month, day = (*parts, 1, 1)[:3]
    return datetime(year, month, day, tzinfo=timezone.utc)


class _Reader:
    def __init__(self, raw: RawUser, task: LampTask) -> None:
        self.raw = raw
        self.task = task
        self.defects: list[Defect] = []

    def read(self) -> Reading:
        queries = self._queries()
        history = self._history(queries)
        user = EvalUser(user_id=self.raw.user_id, history=history, queries=queries)
        repeats = repeated(user, self.task)
        for number, interaction in enumerate(history):
            if interaction.id in repeats:
                self._note("repeats", f"history {number}")
        return Reading(user, repeats, tuple(self.defects))

    def _queries(self) -> tuple[Query, ...]:
        found: dict[str, Query] = {}
        for number, raw in enumerate(self.raw.queries):
            if found.pop(raw.id, None) is not None:
                self._note("duplicate-query", f"query {number}")
            found[raw.id] = self._query(number, raw)
        return tuple(found.values())

    def _query(self, number: int, query: RawQuery) -> Query:
        where = f"query {number}"
        opening = self.task.lead.split()[:_OPENING_WORDS]
        if opening and query.input.split()[:_OPENING_WORDS] != opening:
            self._note("query-opening", where)
        try:
            text = self.task.read_query(query.input)
        except DataError:
            self._note("query-unreadable", where)
            text = query.input.strip()
        gold = query.gold
        if gold is not None and not fits(self.task.answer, gold):
            self._note("gold-type", where)
            if isinstance(self.task.answer, Rating) and as_number(gold) is None:
                # There is no distance to it, so the query cannot be scored.
                gold = None
        time = self._time(query.date, where)
        return Query(id=query.id, user_id=self.raw.user_id, text=text, gold=gold, timestamp=time)

    def _history(self, queries: Sequence[Query]) -> tuple[Interaction, ...]:
        asked = {query.id for query in queries}
        first = min((query.timestamp for query in queries if query.timestamp), default=None)
        kept: dict[str, Interaction] = {}
        for number, item in enumerate(self.raw.profile):
            where = f"item {number}"
            interaction = self._interaction(item, where)
            if interaction.id in asked:
                self._note("query-item", where)
            elif first and interaction.timestamp and interaction.timestamp > first:
                self._note("not-older", where)
            elif self._is_no_rating(interaction.response):
                self._note("no-rating", where)
            else:
                kept[self._free_id(interaction.id, kept, where)] = interaction
        renamed = [_renamed(interaction, item_id) for item_id, interaction in kept.items()]
        return tuple(sorted(renamed, key=_time_order))

    def _interaction(self, item: Mapping[str, Any], where: str) -> Interaction:
        try:
            item_id = str(item["id"])
            read = self.task.read_item(item)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.raw.where}, profile {where}: field {error} is missing; "
                f"is this a file of `{self.task.name}`?"
            ) from error
        if not self._is_no_rating(read.response) and not fits(self.task.response_type, read.response):
            self._note("response-type", where)
        date = item.get("date")
        return Interaction(
            id=item_id,
            user_id=self.raw.user_id,
            query=read.query,
            response=read.response,
            timestamp=self._time(None if date is None else str(date), where),
            metadata={
                name: str(value)
                for name, value in item.items()
                if name not in ("id", "date") and str(value).strip() not in read
            },
        )

    def _is_no_rating(self, response: str) -> bool:
        """Return whether a rating is wanted and this is none: it cannot be averaged or compared."""
        wanted = self.task.response_type
        return isinstance(wanted, Rating) and not fits(wanted, response)

    def _free_id(self, item_id: str, taken: Mapping[str, Interaction], where: str) -> str:
        if item_id not in taken:
            return item_id
        self._note("duplicate-item", where)
        return next(name for n in range(2, len(taken) + 3) if (name := f"{item_id}#{n}") not in taken)

    def _time(self, date: str | None, where: str) -> datetime | None:
        try:
            return parse_date(date)
        except (ValueError, OverflowError):
            self._note("date-unreadable", where)
            return None

    def _note(self, kind: DefectKind, where: str) -> None:
        self.defects.append(Defect(kind, f"{self.raw.position}, {where}"))


def _renamed(interaction: Interaction, item_id: str) -> Interaction:
    return interaction if interaction.id == item_id else replace(interaction, id=item_id)


def _time_order(interaction: Interaction) -> tuple[bool, datetime]:
    undated = datetime.min.replace(tzinfo=timezone.utc)
    return interaction.timestamp is not None, interaction.timestamp or undated
