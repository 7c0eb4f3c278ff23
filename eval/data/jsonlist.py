"""Reads JSON lists of any size, one element in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from program.errors import DataError
from program.files import TextFile, open_utf8
from program.json_text import JsonError, split_list


def elements(path: Path) -> Iterator[Any]:
    """Yield the elements of the list in a JSON file, which may be packed with gzip or in UTF-16.

    Raises:
        DataError: The file is missing, damaged, cut off, or not a JSON list.
    """
    with open_utf8(path) as text:
        _check_start(text)
        number = 0
        try:
            for item in split_list(text.file, text.start):
                yield item.parse()
                number += 1
        except JsonError as error:
            place = f" after record {number - 1}" if number else ""
            raise DataError(
                f"`{path}` is damaged or cut off{place}: it {error}; download or write it again"
            ) from error


def first_element(path: Path) -> Any:
    """Return the first element, or ``None`` if the list is empty; raises as `elements` does."""
    return next(elements(path), None)


def _check_start(text: TextFile) -> None:
    """Raise `DataError` unless the file starts like a JSON list; the message says what it is."""
    start = text.head()
    if start.startswith(b"<"):
        raise DataError(f"`{text.name}` is an HTML page, not data; check the address it was downloaded from")
    if not start.startswith(b"["):
        raise DataError(
            f"`{text.name}` is not a JSON list" + ("; is it the outputs file?" if start else ": it is empty")
        )
