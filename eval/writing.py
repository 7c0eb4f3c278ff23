"""Where something cannot be written, one line says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from program.errors import DataError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `DataError` for a ``path`` that the block cannot write."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write `{path}`: {error.strerror}") from error
