"""Checksums, and one-line errors for files that cannot be written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from program.errors import DataError


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Raise `DataError` if the block cannot write ``path``."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write `{path}`: {error.strerror}") from error
