"""Reads LaMP question files and OPPU history files: a JSON list with one profile per user.

LaMP  [{"id": "110", "input": "...", "profile": [{"id": "1", "tag": "comedy", ...}], "user_id": 7}]
OPPU  [{"user_id": "7", "profile": [{"id": "1", ..., "date": "2010-05-01"}], "query": [...]}]

LaMP's user split has no ``user_id``; the question's id then identifies the user. Only profiles are
imported, not the questions: those are evaluation data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from program.errors import DataError
from program.files import TextFile
from program.json_text import Item, JsonError, split_list
from program.memory.interaction import Interaction
from program.store.importers.fields import read_item, read_user_id
from program.store.importers.reader import FieldError, UserRecords, collect
from program.store.importers.report import BadRecord
from program.task import Task
from program.text import counted


class ProfileReader:
    """Reads a list of users with profiles (see `program.store.importers.reader`).

    Args:
        source: The file.
        task: Reads the profile items.
        id_fields: Fields that may hold the user's id, in order of preference.
    """

    time_field = "date"

    def __init__(self, source: TextFile, task: Task, id_fields: tuple[str, ...] = ("user_id", "id")) -> None:
        self._source = source
        self._task = task
        self._id_fields = id_fields

    def users(self) -> Iterator[UserRecords | BadRecord]:
        """Yield the users in file order."""
        index = -1
        try:
            for index, item in enumerate(split_list(self._source.file, self._source.start)):
                yield self._user(f"[{index}]", item)
        except JsonError as error:
            raise DataError(
                f"`{self._source.name}` cannot be read after {counted(index + 1, 'user')}: it {error}; "
                "is it complete?"
            ) from error
        if index < 0:
            raise DataError(
                f"`{self._source.name}` has no users; expected a JSON list of objects with `profile`"
            )

    def warnings(self) -> tuple[str, ...]:
        """Return nothing: every field is read as it stands."""
        return ()

    def _user(self, where: str, item: Item) -> UserRecords | BadRecord:
        try:
            user = _parse(item)
            user_id = read_user_id(user, *self._id_fields)
            profile = user.get("profile")
            if not isinstance(profile, list):
                raise FieldError("profile", "is missing or not a list")
        except FieldError as error:
            return BadRecord(file=self._source.name, where=where, field=error.field, problem=error.problem)
        items = self._items(where, user_id, profile)
        return collect(self._source.name, user_id, where, item.position + len(item.data), items)

    def _items(
        self, where: str, user_id: str, profile: list[object]
    ) -> Iterator[tuple[str, Interaction | FieldError]]:
        for index, item in enumerate(profile):
            at = f"{where}.profile[{index}]"
            try:
                if not isinstance(item, Mapping):
                    raise FieldError("", "is not a JSON object")
                yield at, read_item(user_id, item, self._task)
            except FieldError as error:
                yield at, error


def _parse(item: Item) -> Mapping[str, object]:
    try:
        user = item.parse()
    except JsonError as error:
        raise FieldError("", str(error)) from error
    if not isinstance(user, dict):
        raise FieldError("", "is not a JSON object")
    return user
