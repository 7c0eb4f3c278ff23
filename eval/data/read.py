"""Turns a record into a user: parses dates, sorts the history, drops items newer than a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from eval.contracts import EvalUser, Query
from eval.data.defects import Defect, DefectKind
from eval.data.raw import RawQuery, RawUser, check_text, read_id, read_text
from eval.metrics import as_number
from eval.tasks.base import LampTask
from program.answers import Rating, fits
from program.errors import DataError
from program.memory.interaction import Interaction
from program.task import Item, Task
from program.values import is_missing, is_scalar, to_metadata, to_text

_OPENING_WORDS = 3


@dataclass(frozen=True)
class Reading:
    """A user and the defects of the record.

    Attributes:
        repeats: Ids of history items that give an answer away (see `find_repeats`).
    """

    user: EvalUser
    repeats: frozenset[str]
    defects: tuple[Defect, ...] = ()


def read_user(raw: RawUser, task: Task) -> Reading:
    """Return the user of one record.

    The history is in time order, undated items first; items with equal times keep the file's order.
    Dates are only days or years, so an item with the same date as a query counts as older.

    Raises:
        DataError: A profile item lacks a field of the task.
    """
    return _Reader(raw, LampTask.of(task)).read()


def find_repeats(user: EvalUser, task: Task) -> frozenset[str]:
    """Return the ids of history items that share a key with a query (see `LampTask.item_keys`)."""
    lamp = LampTask.of(task)
    keys = {key for query in user.queries for key in lamp.query_keys(query.text, query.gold)}
    return frozenset(item.id for item in user.history if keys & lamp.item_keys(item))


def parse_date(text: str | None) -> datetime | None:
    """Return the start of a year, month or day in UTC; ``None`` for ``None`` or blank text.

    Raises:
        ValueError: ``text`` is not ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``.
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
        repeats = find_repeats(user, self.task)
        for number, interaction in enumerate(history):
            if interaction.id in repeats:
                self._note("repeats", f"history {number}")
        return Reading(user, repeats, tuple(self.defects))

    def _queries(self) -> tuple[Query, ...]:
        queries: dict[str, Query] = {}
        for number, raw in enumerate(self.raw.queries):
            if queries.pop(raw.id, None) is not None:
                self._note("duplicate-query", f"query {number}")
            queries[raw.id] = self._query(number, raw)
        return tuple(queries.values())

    def _query(self, number: int, query: RawQuery) -> Query:
        position = f"query {number}"
        opening = self.task.lead.split()[:_OPENING_WORDS]
        if opening and query.input.split()[:_OPENING_WORDS] != opening:
            self._note("query-opening", position)
        try:
            text = self.task.read_query(query.input)
        except DataError:
            self._note("query-unreadable", position)
            text = query.input.strip()
        gold = query.gold
        if gold is None:
            self._note("no-gold", position)
        elif not fits(self.task.answer, gold):
            self._note("gold-type", position)
            if isinstance(self.task.answer, Rating) and as_number(gold) is None:
                # A distance to it is undefined, so the query cannot be scored.
                gold = None
        time = self._time(query.date, position)
        return Query(id=query.id, user_id=self.raw.user_id, text=text, gold=gold, timestamp=time)

    def _history(self, queries: Sequence[Query]) -> tuple[Interaction, ...]:
        query_ids = {query.id for query in queries}
        first = min((query.timestamp for query in queries if query.timestamp), default=None)
        interactions: dict[str, Interaction] = {}
        for number, item in enumerate(self.raw.profile):
            position = f"item {number}"
            interaction = self._interaction(item, position)
            if interaction.id in query_ids:
                self._note("query-item", position)
            elif first and interaction.timestamp and interaction.timestamp > first:
                self._note("not-older", position)
            elif self._lacks_rating(interaction.response):
                self._note("no-rating", position)
            else:
                interactions[self._unique_id(interaction.id, interactions, position)] = interaction
        renamed = [_with_id(interaction, item_id) for item_id, interaction in interactions.items()]
        return tuple(sorted(renamed, key=_time_order))

    def _interaction(self, item: object, position: str) -> Interaction:
        location = f"{self.raw.location}, profile {position}"
        item_id = read_id(item, "id", location)
        assert isinstance(item, dict)
        fields = self._read_item(item, location)
        if not self._lacks_rating(fields.response) and not fits(self.task.response_type, fields.response):
            self._note("response-type", position)
        metadata = ((name, to_metadata(value)) for name, value in item.items() if name not in ("id", "date"))
        return Interaction(
            id=item_id,
            user_id=self.raw.user_id,
            query=fields.query,
            response=fields.response,
            timestamp=self._time(item.get("date"), position),
            metadata={
                check_text(name, "profile", location): check_text(text, name, location)
                for name, text in metadata
                if text is not None and text.strip() not in fields
            },
        )

    def _read_item(self, item: Mapping[str, object], location: str) -> Item:
        """Return the query and the response of a profile item; a null rating is empty text."""
        texts = {name: to_text(value) for name, value in item.items() if is_scalar(value)}
        try:
            fields = self._fill_rating(item, texts)
        except KeyError as error:
            name = str(error.args[0])
            if name in item:
                read_text(item, name, location)
            raise DataError(
                f"{location}: field {error} is missing; is this a file of `{self.task.name}`?"
            ) from error
        except DataError as error:
            raise DataError(f"{location}: {error}") from error
        return Item(*(check_text(text, name, location) for name, text in fields._asdict().items()))

    def _fill_rating(self, item: Mapping[str, object], texts: Mapping[str, str]) -> Item:
        """Read an item; if all that it lacks is a rating that is null, the response is empty."""
        try:
            return self.task.read_item(texts)
        except KeyError as error:
            name = str(error.args[0])
            if isinstance(self.task.response_type, Rating) and is_missing(item.get(name, "")):
                fields = self.task.read_item({**texts, name: ""})
                if not fields.response:
                    return fields
            raise

    def _lacks_rating(self, response: str) -> bool:
        """Return whether the task needs a rating and ``response`` is not one."""
        response_type = self.task.response_type
        return isinstance(response_type, Rating) and not fits(response_type, response)

    def _unique_id(self, item_id: str, others: Mapping[str, Interaction], position: str) -> str:
        if item_id not in others:
            return item_id
        self._note("duplicate-item", position)
        return next(name for n in range(2, len(others) + 3) if (name := f"{item_id}#{n}") not in others)

    def _time(self, date: object, position: str) -> datetime | None:
        try:
            return parse_date(None if is_missing(date) else to_text(date).strip().removesuffix(".0"))
        except (ValueError, OverflowError):
            self._note("date-unreadable", position)
            return None

    def _note(self, kind: DefectKind, position: str) -> None:
        self.defects.append(Defect(kind, f"{self.raw.position}, {position}"))


def _with_id(interaction: Interaction, item_id: str) -> Interaction:
    return interaction if interaction.id == item_id else replace(interaction, id=item_id)


def _time_order(interaction: Interaction) -> tuple[bool, datetime]:
    undated = datetime.min.replace(tzinfo=timezone.utc)
    return interaction.timestamp is not None, interaction.timestamp or undated
