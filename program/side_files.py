"""Files beside the store that can be rebuilt: set aside if damaged, and readable by the owner only."""

from __future__ import annotations

import re
import sqlite3
import time
import zlib
from contextlib import suppress
from pathlib import Path

_SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")


def is_damage(error: Exception) -> bool:
    """Return whether an error shows that the file is damaged; a full disk or a lock does not."""
    if isinstance(error, (UnicodeDecodeError, zlib.error)):
        return True
    # SQLite's codes for damage become the class itself, other codes a class below it.
    return type(error) is sqlite3.DatabaseError or (
        isinstance(error, sqlite3.OperationalError) and _WRONG_SCHEMA.search(str(error)) is not None
    )


_WRONG_SCHEMA = re.compile(
    "no such (table|column|collation)|has no column|malformed|already exists|syntax error"
)


def is_cache_damage(error: Exception) -> bool:
    """Return whether a new folder would open without this error; not so for a full disk or a lock."""
    if isinstance(error, sqlite3.Error):
        return is_damage(error)
    return not isinstance(error, OSError) or isinstance(error, (FileExistsError, NotADirectoryError))


def set_aside(path: Path) -> Path:
    """Rename a file or folder to ``NAME.damaged-TIME``, with SQLite's files beside it; return the new path.

    Raises:
        OSError: It cannot be renamed.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target, number = path.with_name(f"{path.name}.damaged-{stamp}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    path.rename(target)
    for suffix in _SQLITE_SUFFIXES[1:]:
        # Otherwise SQLite would apply the old log to the new file.
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    return target


def files_set_aside(path: Path) -> list[Path]:
    """Return what `set_aside` made of ``path`` so far."""
    return sorted(path.parent.glob(f"{path.name}.damaged-*")) if path.parent.is_dir() else []


def make_private(path: Path) -> None:
    """Take a file, and SQLite's files beside it, from everybody but the owner, as far as we may."""
    for suffix in _SQLITE_SUFFIXES:
        with suppress(OSError):
            file = path.with_name(path.name + suffix)
            mode = file.stat().st_mode
            if mode & 0o077:
                file.chmod(mode & 0o700)
