"""Reads JSONL: one interaction per line, users in any order.

{"user_id": "ann", "query": "a film about ...", "response": "comedy",
 "id": "ann-17", "timestamp": "2024-05-01T12:00:00Z", "metadata": {"source": "app"}}

``id``, ``timestamp`` and ``metadata`` are optional. Without ``id`` the id is a hash of the content, so
a repeated line is one interaction.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from program.memory.interaction import Interaction
from program.store.importers.fields import read_line, read_user_id
from program.store.importers.reader import FieldError, UserRecords, collect
from program.store.importers.report import BadRecord
from program.task import Task

_BOM = b"\xef\xbb\xbf"


class JsonlReader:
    """Reads a JSONL file (see `program.store.importers.reader`).

    Users may be interleaved in a file of any size: it stores the position of each line in 16 bytes.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self._path = path
        self._task = task

    def users(self) -> Iterator[UserRecords | BadRecord]:
        """Yield lines without a user as `BadRecord`, then the users in order of first occurrence."""
        with self._path.open("rb") as file:
            lines: dict[str, array[int]] = {}
            for number, offset, line in _numbered(file):
                try:
                    user_id = read_user_id(_parse(line), "user_id")
                except FieldError as error:
                    yield BadRecord(
                        file=str(self._path), where=f"line {number}", field=error.field, problem=error.problem
                    )
                else:
                    lines.setdefault(user_id, array("Q")).extend((number, offset))
            size = file.tell()
            position, total = 0, sum(map(len, lines.values()))
            for user_id, user_lines in lines.items():
                position += len(user_lines)
                yield collect(
                    str(self._path),
                    user_id,
                    f"line {user_lines[0]}",
                    size * position // total,
                    self._interactions(file, user_id, user_lines),
                )

    def _interactions(
        self, file: BinaryIO, user_id: str, lines: array[int]
    ) -> Iterator[tuple[str, Interaction | FieldError]]:
        for number, offset in zip(lines[::2], lines[1::2], strict=True):
            file.seek(offset)
            try:
                yield f"line {number}", read_line(user_id, _parse(file.readline()), self._task)
            except FieldError as error:
                yield f"line {number}", error


def _numbered(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, offset, line
        offset += len(line)


def _parse(line: bytes) -> Mapping[str, object]:
    try:
        record = json.loads(line.removeprefix(_BOM).decode())
    except UnicodeDecodeError as error:
        raise FieldError("", "is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "cannot be read"
        raise FieldError("", f"is not a JSON object: {reason}") from error
    if not isinstance(record, dict):
        raise FieldError("", "is not a JSON object")
    return record
