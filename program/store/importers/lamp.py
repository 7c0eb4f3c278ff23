"""Reads LaMP question files and OPPU history files: a JSON list with one profile per user.

LaMP  [{"id": "110", "input": "...", "profile": [{"id": "1", "tag": "comedy", ...}], "user_id": 7}]
OPPU  [{"user_id": "7", "profile": [{"id": "1", ..., "date": "2010-05-01"}], "query": [...]}]

LaMP's user split has no ``user_id``; the question's id then identifies the user. Only profiles are
imported, not the questions: those are evaluation data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from program.errors import DataError
from program.memory.interaction import Interaction
from program.store.importers.fields import read_item, read_user_id
from program.store.importers.reader import FieldError, UserRecords, collect
from program.store.importers.report import BadRecord
from program.task import Task


class ProfileReader:
    """Reads a list of users with profiles (see `program.store.importers.reader`).

    Args:
        path: The file.
        task: Reads the profile items.
        id_fields: Fields that may hold the user's id, in order of preference.
    """

    def __init__(self, path: Path, task: Task, id_fields: tuple[str, ...] = ("user_id", "id")) -> None:
        self._path = path
        self._task = task
        self._id_fields = id_fields

    def users(self) -> Iterator[UserRecords | BadRecord]:
        """Yield the users in file order."""
        import ijson

        index = -1
        with self._path.open("rb") as file:
            try:
                for index, user in enumerate(ijson.items(file, "item", use_float=True)):
                    yield self._user(f"[{index}]", user, file.tell())
            except (ijson.JSONError, UnicodeDecodeError) as error:
                # The other lines of the parser's message quote the file.
                reason = str(error).partition("\n")[0]
                raise DataError(
                    f"`{self._path}` cannot be read after {index + 1} users: {reason}; is it complete?"
                ) from error
        if index < 0:
            raise DataError(f"`{self._path}` has no users; expected a JSON list of objects with `profile`")

    def _user(self, where: str, user: object, position: int) -> UserRecords | BadRecord:
        try:
            if not isinstance(user, Mapping):
                raise FieldError("", "is not a JSON object")
            user_id = read_user_id(user, *self._id_fields)
            if not isinstance(user.get("profile"), list):
                raise FieldError("profile", "is missing or not a list")
        except FieldError as error:
            return BadRecord(file=str(self._path), where=where, field=error.field, problem=error.problem)
        items = self._items(where, user_id, user["profile"])
        return collect(str(self._path), user_id, where, position, items)

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
