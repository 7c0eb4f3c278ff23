"""Reads files with one interaction per record, users in any order: JSON lines, a JSON list, or CSV.

{"user_id": "ann", "query": "a film about ...", "response": "comedy",
 "id": "ann-17", "timestamp": "2024-05-01T12:00:00Z", "metadata": {"source": "app"}}

``id``, ``timestamp`` and ``metadata`` are optional, and so is every other field. Without ``id`` the id is
a hash of the content, so a repeated record is one interaction.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from program.errors import DataError
from program.files import TextFile, too_long
from program.json_text import JsonError, parse, split_list
from program.memory.interaction import Interaction
from program.store.importers.chat import chat_field
from program.store.importers.fields import read_record, read_user_id
from program.store.importers.reader import FieldError, UserRecords, collect
from program.store.importers.report import BadRecord
from program.task import Task
from program.text import counted
from program.values import is_missing

_NUMBERS = 3


class Place(NamedTuple):
    """The place of a record: its number, and where its bytes are."""

    number: int
    position: int
    length: int


class Records(Protocol):
    """The records of one file format."""

    def scan(self) -> Iterator[tuple[Place, Mapping[str, object] | FieldError]]:
        """Yield all records in order; raises `DataError` if the rest cannot be read."""
        ...

    def read(self, data: bytes) -> Mapping[str, object]:
        """Return the record of the bytes at a `Place`; raises `FieldError`."""
        ...

    def where(self, number: int) -> str:
        """Return a record's place for people."""
        ...


class RecordReader:
    """Reads a file of records (see `program.store.importers.reader`).

    Users may be interleaved in a file of any size: it stores the place of each record in 24 bytes.
    """

    time_field = "timestamp"

    def __init__(self, source: TextFile, records: Records, task: Task) -> None:
        self._source = source
        self._records = records
        self._task = task
        self._from_chat: dict[str, int] = {}
        self._places: dict[str, array[int]] | None = None

    def users(self) -> Iterator[UserRecords | BadRecord]:
        """Yield records without a user as `BadRecord`, then the users in order of first occurrence.

        A second pass knows the places of the first, and yields users alone.
        """
        self._from_chat = {}
        if self._places is None:
            places: dict[str, array[int]] = {}
            yield from self._scan(places)
            self._places = places
        places = self._places
        done, total = 0, sum(map(len, places.values()))
        for user_id, user_places in places.items():
            done += len(user_places)
            yield collect(
                self._source.name,
                user_id,
                self._records.where(user_places[0]),
                self._source.size * done // total,
                self._interactions(user_id, user_places),
            )

    def _scan(self, places: dict[str, array[int]]) -> Iterator[BadRecord]:
        """Find the places of each user's records; yield records without a user."""
        for place, record in self._records.scan():
            try:
                if isinstance(record, FieldError):
                    raise record
                user_id = read_user_id(record, "user_id")
            except FieldError as error:
                yield BadRecord(
                    file=self._source.name,
                    where=self._records.where(place.number),
                    field=error.field,
                    problem=error.problem,
                )
            else:
                places.setdefault(user_id, array("Q")).extend(place)

    def warnings(self) -> tuple[str, ...]:
        """Return which turn of chat logs became the query."""
        return tuple(
            f"the last `user` turn of `{field}` is the query of {counted(count, 'interaction')}; "
            "the other turns are kept as metadata"
            for field, count in self._from_chat.items()
        )

    def _interactions(
        self, user_id: str, places: array[int]
    ) -> Iterator[tuple[str, Interaction | FieldError]]:
        for start in range(0, len(places), _NUMBERS):
            number, position, length = places[start : start + _NUMBERS]
            self._source.file.seek(position)
            where = self._records.where(number)
            try:
                record = self._records.read(self._source.file.read(length))
                yield where, read_record(user_id, record, self._task)
            except FieldError as error:
                yield where, error
                continue
            field = chat_field(record)
            if field and is_missing(record.get("query")):
                self._from_chat[field] = self._from_chat.get(field, 0) + 1


class JsonLines:
    """One JSON object per line."""

    def __init__(self, source: TextFile) -> None:
        self._source = source

    def scan(self) -> Iterator[tuple[Place, Mapping[str, object] | FieldError]]:
        """Yield the lines that are not empty."""
        for number, position, line in self._source.lines():
            if line is None:
                yield Place(number, position, 0), FieldError("", too_long())
            elif line.strip():
                yield Place(number, position, len(line)), _try(self, line)

    def read(self, data: bytes) -> Mapping[str, object]:
        """Return the object of a line."""
        try:
            return _object(parse(data))
        except JsonError as error:
            text = data.strip()
            whole = not text.startswith(b"{") or text.endswith(b"}")
            hint = "" if whole else "; a record must be on one line, or the file a JSON list"
            raise FieldError("", f"{error}{hint}") from error

    def where(self, number: int) -> str:
        """Return the line."""
        return f"line {number}"


class JsonList:
    """A JSON list of objects."""

    def __init__(self, source: TextFile) -> None:
        self._source = source

    def scan(self) -> Iterator[tuple[Place, Mapping[str, object] | FieldError]]:
        """Yield the items."""
        number = -1
        try:
            for number, item in enumerate(split_list(self._source.file, self._source.start)):
                yield Place(number, item.position, len(item.data)), _try(self, item.data)
        except JsonError as error:
            raise DataError(
                f"`{self._source.name}` cannot be read after {counted(number + 1, 'record')}: "
                f"it {error}; is it complete?"
            ) from error
        if number < 0:
            raise DataError(
                f"`{self._source.name}` has no users; expected objects with `user_id`, `query`, `response`"
            )

    def read(self, data: bytes) -> Mapping[str, object]:
        """Return the object of an item."""
        try:
            return _object(parse(data))
        except JsonError as error:
            raise FieldError("", str(error)) from error

    def where(self, number: int) -> str:
        """Return the index."""
        return f"[{number}]"


def _try(records: Records, data: bytes) -> Mapping[str, object] | FieldError:
    try:
        return records.read(data)
    except FieldError as error:
        return error


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise FieldError("", "is not a JSON object")
    return value
