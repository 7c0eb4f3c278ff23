"""Detects the layout of a file from its first bytes, and rejects files that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from program.errors import DataError
from program.store.importers.jsonl import JsonlReader
from program.store.importers.lamp import ProfileReader
from program.store.importers.reader import Reader
from program.task import Task

Format = Literal["auto", "jsonl", "lamp", "oppu"]
"""``auto`` detects the layout: a JSON list is LaMP or OPPU, lines of JSON objects are JSONL."""

_HEAD = 4096


def open_reader(path: Path, layout: Format, task: Task) -> Reader:
    """Return the reader for a file.

    Raises:
        DataError: The file does not exist, or has another layout.
    """
    start = _start(path)
    is_list = start.startswith(b"[")
    if layout != "auto" and is_list != (layout != "jsonl"):
        expected = "lines of JSON objects" if layout == "jsonl" else "a JSON list"
        raise DataError(f"`{path}` is not of format {layout!r}: expected {expected}; try `--format auto`")
    if not is_list:
        return JsonlReader(path, task)
    return ProfileReader(path, task, ("user_id",) if layout == "oppu" else ("user_id", "id"))


def _start(path: Path) -> bytes:
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "does not exist"
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
        raise DataError(f"`{path}` is a web page, not data; check the download address")
    if b"\0" in head or head.startswith(b"\x1f\x8b"):
        raise DataError(f"`{path}` is binary; decompress it first if it is an archive")
    if b'"golds"' in start[:200]:
        raise DataError(f"`{path}` has answers (`golds`), not histories; use the questions file")
    if start[:1] not in (b"[", b"{"):
        raise DataError(f"`{path}` is neither JSONL nor a JSON list; it starts with {start[:20]!r}")
    return start
