"""Which layout a file has, from its first bytes; and the files that can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from program.errors import DataError
from program.store.importers.jsonl import JsonlReader
from program.store.importers.lamp import ProfileReader
from program.store.importers.reader import Reader
from program.task import Task

Format = Literal["auto", "jsonl", "lamp", "oppu"]
"""``auto`` looks at the file: a JSON list is LaMP or OPPU, lines of objects are JSONL."""

_HEAD = 4096


def open_reader(path: Path, layout: Format, task: Task) -> Reader:
    """Return the reader for a file.

    Raises:
        DataError: There is no such file, or it cannot have that layout.
    """
    start = _start(path)
    is_list = start.startswith(b"[")
    if layout != "auto" and is_list != (layout != "jsonl"):
        expected = "lines of JSON objects" if layout == "jsonl" else "a JSON list"
        raise DataError(f"`{path}` is not of format {layout!r}: expected {expected}; try --format auto")
    if not is_list:
        return JsonlReader(path, task)
    return ProfileReader(path, task, ("user_id",) if layout == "oppu" else ("user_id", "id"))


def _start(path: Path) -> bytes:
    if not path.is_file():
        problem = "is no regular file" if path.exists() else "does not exist"
        raise DataError(f"`{path}` {problem}; give the path of a data file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise DataError(f"`{path}` is empty")
    if start.startswith(b"<"):
        raise DataError(f"`{path}` is a web page, not data; a wrong download address gives one")
    if b"\0" in head or head.startswith(b"\x1f\x8b"):
        raise DataError(f"`{path}` is binary; if it is compressed, unpack it first")
    if b'"golds"' in start[:200]:
        raise DataError(f"`{path}` holds answers (`golds`), not histories; give the questions file")
    if start[:1] not in (b"[", b"{"):
        raise DataError(f"`{path}` is neither JSONL nor a JSON list; it starts with {start[:20]!r}")
    return start
