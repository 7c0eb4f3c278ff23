"""Detects the layout of a file from its first record, and rejects files that have none."""

from __future__ import annotations

from typing import Literal

from program.errors import DataError
from program.files import TextFile
from program.json_text import JsonError, split_list
from program.store.importers.lamp import ProfileReader
from program.store.importers.reader import Reader
from program.store.importers.records import JsonLines, JsonList, RecordReader
from program.store.importers.table import CsvRows, find_delimiter
from program.task import Task

Format = Literal["auto", "jsonl", "json", "csv", "lamp", "oppu", "export"]
"""``auto`` detects the layout. ``jsonl`` is lines of JSON objects, ``json`` a list of them, one for each
interaction; ``csv`` is a table with a header; ``lamp`` and ``oppu`` are lists with one profile per user;
``export`` is everything about one user (`program.export`)."""

_EXPECTED = {
    "jsonl": "lines of JSON objects",
    "json": "a JSON list of records",
    "csv": "a table with a header that names `user_id`",
    "lamp": "a JSON list",
    "oppu": "a JSON list",
}


def open_reader(source: TextFile, layout: Format, task: Task) -> Reader:
    """Return the reader for an open file.

    Raises:
        DataError: The file is empty, or has another layout or none.
    """
    start = _start(source)
    begins = {b"[": "list", b"{": "jsonl"}.get(start[:1], "csv")
    if layout != "auto" and begins != {"jsonl": "jsonl", "csv": "csv"}.get(layout, "list"):
        raise DataError(
            f"`{source.name}` is not of format {layout!r}: expected {_EXPECTED[layout]}; try `--format auto`"
        )
    if begins == "jsonl":
        return RecordReader(source, JsonLines(source), task)
    if begins == "csv":
        if layout == "auto" and find_delimiter(start) is None:
            raise DataError(
                f"`{source.name}` is neither JSONL nor a JSON list, nor a table whose header has `user_id`; "
                f"it starts with {start[:20]!r}"
            )
        return RecordReader(source, CsvRows(source), task)
    if layout == "json" or (layout == "auto" and _holds_records(source)):
        return RecordReader(source, JsonList(source), task)
    return ProfileReader(source, task, ("user_id",) if layout == "oppu" else ("user_id", "id"))


def _start(source: TextFile) -> bytes:
    start = source.head()
    if not start:
        raise DataError(f"`{source.name}` is empty")
    if start.startswith(b"<"):
        raise DataError(f"`{source.name}` is a web page, not data; check the download address")
    if b'"golds"' in start[:200]:
        raise DataError(f"`{source.name}` has answers (`golds`), not histories; use the questions file")
    return start


def _holds_records(source: TextFile) -> bool:
    """Return whether the first item of a list is an interaction, not a user with a profile."""
    try:
        first = next(split_list(source.file, source.start), None)
        record = first.parse() if first else None
    except JsonError:
        return False
    return isinstance(record, dict) and "profile" not in record and not isinstance(record.get("query"), list)
