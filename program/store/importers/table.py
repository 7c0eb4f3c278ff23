"""Reads CSV with a header: one interaction per row (see `program.store.importers.records`)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping

from program.errors import DataError
from program.files import MAX_RECORD_BYTES, TextFile, not_utf8, too_long
from program.store.importers.reader import FieldError
from program.store.importers.records import Place

_DELIMITERS = ",;\t|"
_NEEDED = ("user_id", "query", "response")
# What data frames write into an empty cell. In a text that may be a word, only the first four are a gap.
_MISSING = ("", "nan", "<na>", "nat", "null", "none", "na", "n/a", "#n/a")
_MISSING_TEXT = _MISSING[:4]
_WHOLE = re.compile(r"(-?\d{1,15})\.0")


class CsvRows:
    """The rows of a CSV file. The delimiter is the one with which the header names ``user_id``.

    Args:
        source: The file.

    Raises:
        DataError: The header lacks a column or names one twice.
    """

    def __init__(self, source: TextFile) -> None:
        self._source = source
        headers = (
            (number, position, line)
            for number, position, line in source.lines()
            if line and not _is_preamble(line)
        )
        number, position, first = next(headers, (0, source.start, b""))
        self._delimiter, self._names = _read_header(source.name, first)
        self._first = number
        self._start = position + len(first)

    def scan(self) -> Iterator[tuple[Place, Mapping[str, object] | FieldError]]:
        """Yield the rows; a row begins at the line that is its number."""
        lines = _Lines(self._source, self._start, self._first)
        rows = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            number, position = lines.number + 1, lines.position
            lines.begin()
            try:
                cells = next(rows)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError, FieldError) as error:
                # The reader starts afresh at the next line.
                yield Place(number, position, 0), _field_error(error)
                continue
            if any(cell.strip() for cell in cells):
                place = Place(number, position, lines.position - position)
                yield place, self._record(cells)

    def read(self, data: bytes) -> Mapping[str, object]:
        """Return the record of one row."""
        lines = (f"{line}\n" for line in data.decode().split("\n"))
        record = self._record(next(csv.reader(lines, delimiter=self._delimiter, strict=True)))
        if isinstance(record, FieldError):
            raise record
        return record

    def where(self, number: int) -> str:
        """Return the line."""
        return f"line {number}"

    def _record(self, cells: list[str]) -> Mapping[str, object] | FieldError:
        if len(cells) != len(self._names):
            return FieldError(
                "",
                f"has {len(cells)} cells, but the header has {len(self._names)}; "
                "put quotes around a text that holds the delimiter",
            )
        record: dict[str, object] = {}
        for name, cell in zip(self._names, cells, strict=True):
            missing = _MISSING if name in (*_NEEDED, "id", "timestamp") else _MISSING_TEXT
            if cell.strip().lower() in missing:
                if name in _NEEDED:
                    value = f"{cell.strip()!r}, as data frames write a gap" if cell.strip() else "empty"
                    return FieldError(name, f"is missing: the cell is {value}")
                continue
            whole = _WHOLE.fullmatch(cell.strip()) if name in ("user_id", "id") else None
            record[name] = whole[1] if whole else cell
        return record


def find_delimiter(head: bytes) -> str | None:
    """Return the delimiter with which the first lines of a file name ``user_id``, or ``None``."""
    header = next((line for line in head.split(b"\n") if not _is_preamble(line)), b"")
    return next(
        (mark for mark in _DELIMITERS if "user_id" in _names(header.decode("utf-8", "replace"), mark)), None
    )


def _is_preamble(line: bytes) -> bool:
    """Return whether a line before the header is empty, or tells Excel the delimiter."""
    return not line.strip() or line.lower().startswith(b"sep=")


def _read_header(file: str, line: bytes) -> tuple[str, list[str]]:
    delimiter = find_delimiter(line) or ","
    try:
        names = _names(line.decode(), delimiter)
    except UnicodeDecodeError as error:
        raise DataError(f"`{file}` {not_utf8(error)}; in Excel choose `CSV UTF-8`") from error
    missing = [f"`{name}`" for name in _NEEDED if name not in names]
    if missing:
        raise DataError(
            f"`{file}` is a table whose header lacks {', '.join(missing)}; it has "
            f"{', '.join(f'`{name}`' for name in names[:8])}: rename the columns"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"`{file}` has two columns `{twice}`; rename one of them")
    return delimiter, names


def _names(text: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([text], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _field_error(error: Exception) -> FieldError:
    if isinstance(error, FieldError):
        return error
    if isinstance(error, UnicodeDecodeError):
        return FieldError("", not_utf8(error))
    if "field larger" in str(error):
        return FieldError(
            "", f"has a cell of more than {csv.field_size_limit():,} characters; is a quote missing?"
        )
    if "end of data" in str(error):
        return FieldError("", "opens a quote that is never closed")
    return FieldError("", f"cannot be read as CSV: {error}")


class _Lines:
    """Gives lines to the CSV reader, and knows how far it has read."""

    def __init__(self, source: TextFile, position: int, number: int) -> None:
        self._file = source.file
        self._begin = position
        self.position = position
        self.number = number

    def begin(self) -> None:
        """Start a record."""
        self._begin = self.position

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self._file.seek(self.position)
        line = self._file.readline(MAX_RECORD_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        self.position += len(line)
        if self.position - self._begin > MAX_RECORD_BYTES:
            raise FieldError("", too_long())
        return line.decode()
