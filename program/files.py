"""Opens data files as UTF-8: gzip, byte-order marks, UTF-16, UTF-32 and standard input.

A plain UTF-8 file is read in place. Everything else is unpacked into a temporary file that only this
process can read, so that readers can seek and read it twice.
"""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from program.errors import DataError

STDIN = "-"
"""The path that means standard input."""

MAX_RECORD_BYTES = 32 << 20
"""Largest record, line or value that a reader holds in memory at once."""

_HEAD = 4096
_CHUNK = 1 << 20
_IN_MEMORY = 8 << 20
_GZIP = b"\x1f\x8b"
# A damaged or hostile archive can grow a thousandfold; text in JSON shrinks to a tenth.
_MAX_RATIO, _RATIO_MATTERS = 200, 256 << 20
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = (("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1))
_WIDEST = 16
_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive or an Excel file; unpack it, or save the table as CSV"),
    (b"SQLite format 3\0", "a SQLite database; export its rows as JSON lines or CSV"),
    (b"PAR1", "a parquet file; convert it to JSON lines or CSV"),
    (b"ARROW1", "an Arrow file; convert it to JSON lines or CSV"),
    (b"BZh", "a bzip2 archive; decompress it first"),
    (b"\xfd7zXZ\0", "an xz archive; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; decompress it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; decompress it first"),
    (b"%PDF", "a PDF; export its text as JSON lines or CSV"),
)


@dataclass(frozen=True)
class TextFile:
    """An open file of UTF-8 bytes.

    Attributes:
        name: The path as the user gave it, for messages.
        file: The bytes; seekable.
        start: Position of the first byte after a byte-order mark.
        size: Number of bytes in ``file``.
    """

    name: str
    file: IO[bytes]
    start: int
    size: int

    def head(self) -> bytes:
        """Return the first bytes after leading white space, and go back to the start of the text."""
        self.file.seek(self.start)
        head = b""
        while not head and (chunk := self.file.read(_HEAD)):
            head = chunk.lstrip()
        self.file.seek(self.start)
        return head

    def lines(self) -> Iterator[tuple[int, int, bytes | None]]:
        """Yield number (from 1), position and bytes of each line; ``None`` if it is too long to hold."""
        position, number = self.start, 0
        while True:
            # The consumer may have moved the file.
            self.file.seek(position)
            line = self.file.readline(MAX_RECORD_BYTES)
            if not line:
                return
            number += 1
            end, rest = position + len(line), line
            while not rest.endswith(b"\n") and (rest := self.file.readline(_CHUNK)):
                end += len(rest)
            yield number, position, line if len(line) == end - position else None
            position = end


@contextmanager
def open_utf8(path: str | Path) -> Iterator[TextFile]:
    r"""Open a file for reading, whatever it is packed in; ``-`` is standard input.

    Raises:
        DataError: The path cannot be read, is damaged, or is not text; the message says what it is.

    Example:
        >>> import gzip
        >>> _ = Path("titles.txt.gz").write_bytes(gzip.compress("A Paper On Bread\n".encode("utf-16")))
        >>> with open_utf8("titles.txt.gz") as text:
        ...     text.head()
        b'A Paper On Bread\n'
    """
    with ExitStack() as stack:
        file = _open(path, stack)
        if not file.seekable():
            file = _spool(path, file, stack)
        if file.read(len(_GZIP)) == _GZIP:
            file.seek(0)
            file = _spool(path, file, stack, packed=True)
        file.seek(0)
        head = file.read(_HEAD)
        encoding = _find_encoding(path, head)
        if encoding:
            file.seek(0)
            file = _spool(path, file, stack, encoding=encoding)
        mark = codecs.BOM_UTF8 if not encoding and head.startswith(codecs.BOM_UTF8) else b""
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(len(mark))
        yield TextFile(str(path), file, len(mark), size)


def read_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a text file without their line ends.

    Raises:
        DataError: As `open_utf8`, or a line is too long or not UTF-8; the message names the line.
    """
    with open_utf8(path) as text:
        for number, _, line in text.lines():
            if line is None:
                raise DataError(f"`{path}` line {number}: {too_long()}")
            try:
                yield line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"`{path}` line {number}: {not_utf8(error)}") from error


def too_long() -> str:
    """Return the reason for refusing a record, as the rest of a sentence."""
    return f"is longer than {MAX_RECORD_BYTES >> 20} MB; is a quote or a line end missing?"


def not_utf8(error: UnicodeDecodeError) -> str:
    """Return the reason for refusing bytes, as the rest of a sentence."""
    return f"is not UTF-8 text (byte {error.start}); save the file as UTF-8"


def _open(path: str | Path, stack: ExitStack) -> IO[bytes]:
    if str(path) == STDIN:
        if sys.stdin is None:
            raise DataError("there is no standard input to read; give the path of a data file")
        return sys.stdin.buffer
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode) or stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and str(path) != "/dev/stdin"):
            raise DataError(f"`{path}` is not a regular file; give the path of a data file")
        return stack.enter_context(Path(path).open("rb"))
    except FileNotFoundError as error:
        raise DataError(f"`{path}` does not exist; give the path of a data file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"cannot read `{path}`: {reason}; check the path") from error


def _spool(
    path: str | Path, source: IO[bytes], stack: ExitStack, *, packed: bool = False, encoding: str = ""
) -> IO[bytes]:
    """Copy a stream into a temporary file, unpacked and as UTF-8."""
    import tempfile

    counter = _Counter(source)
    chunks = _chunks(gzip.GzipFile(fileobj=counter) if packed else source)
    if encoding:
        chunks = (text.encode() for text in codecs.iterdecode(chunks, encoding))
    spool = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))
    size = 0
    try:
        for chunk in chunks:
            size += len(chunk)
            if packed and size > _RATIO_MATTERS and size > _MAX_RATIO * counter.count:
                raise DataError(
                    f"`{path}` unpacks to more than {_MAX_RATIO} times its size; it is damaged, "
                    "or is not data: unpack it and look"
                )
            spool.write(chunk)
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` begins as {encoding.upper()} but is damaged; save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"`{path}` is a damaged gzip file ({error}); copy or download it again") from error
    except OSError as error:
        raise DataError(f"cannot unpack `{path}`: {error.strerror or error}") from error
    spool.seek(0)
    return spool


class _Counter:
    """Counts the bytes that are read from a stream."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.count += len(data)
        return data

    def seek(self, position: int) -> int:
        return self._source.seek(position)


def _chunks(source: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


def _find_encoding(path: str | Path, head: bytes) -> str:
    """Return UTF-16 or UTF-32 if the first bytes are that, empty for UTF-8; refuse what is not text."""
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return encoding
    for magic, kind in _OTHER_KINDS:
        if head.startswith(magic):
            raise DataError(f"`{path}` is binary: {kind}")
    if b"\0" not in head[:_WIDEST]:
        return ""
    # Without a mark, ASCII at the start shows the width and order of the characters.
    for encoding, width, place in _WIDE:
        start = head[: 4 * width]
        if len(start) == 4 * width and all(
            (byte != 0) == (index % width == place) for index, byte in enumerate(start)
        ):
            return encoding
    raise DataError(f"`{path}` is binary, not text; give a file of JSON, JSON lines or CSV")
