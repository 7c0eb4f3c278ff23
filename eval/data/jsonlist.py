"""Reads JSON lists of any size, one element in memory at a time."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from program.errors import DataError


def elements(path: Path) -> Iterator[Any]:
    """Yield the elements of the list in a JSON file.

    Raises:
        DataError: The file is missing, damaged, cut off, or not a JSON list.
    """
    import ijson

    with open_file(path) as file:
        number = 0
        try:
            for element in ijson.items(file, "item", use_float=True):
                yield element
                number += 1
        except (ijson.JSONError, UnicodeDecodeError) as error:
            place = f" after record {number - 1}" if number else ""
            raise DataError(f"`{path}` is damaged or cut off{place}; download it again") from error


def first_element(path: Path) -> Any:
    """Return the first element, or ``None`` if the list is empty; raises as `elements` does."""
    return next(elements(path), None)


def open_file(path: Path) -> BinaryIO:
    """Open a file that starts like a JSON list, after a byte order mark if it has one.

    Raises:
        DataError: The file cannot be read, or is something else; the message says what.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror}; check the path") from error
    head = file.read(512)
    content = head.removeprefix(BOM_UTF8)
    file.seek(len(head) - len(content))
    start = content.lstrip(b" \t\r\n")
    if start.startswith(b"["):
        return file
    file.close()
    if start.startswith(b"<"):
        raise DataError(f"`{path}` is an HTML page, not data; check the address it was downloaded from")
    raise DataError(
        f"`{path}` is not a JSON list" + (": it is empty" if not start else "; is it the outputs file?")
    )
