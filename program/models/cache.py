"""Answers that were paid for, kept so that a run that is repeated does not pay again.

DSPy's cache holds what models said about users. Its default folder is shared by all programs of a
machine; ours is in the data directory, bounded, and emptied when a user is forgotten,
because an entry does not say whose it is.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import dspy

from program.models import repeats

_MEMORY_ENTRIES = 50_000
_DISK_BYTES = 2 * 1024**3


def _folder(home: Path) -> Path:
    return home / "cache" / "answers"


def use_cache(home: Path) -> None:
    """Keep answers in the data directory ``home`` instead of DSPy's own folder."""
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    dspy.configure_cache(
        disk_cache_dir=str(folder), disk_size_limit_bytes=_DISK_BYTES, memory_max_entries=_MEMORY_ENTRIES
    )
    repeats.keep_in(folder / "embedded")


def empty_cache(home: Path) -> None:
    """Delete all kept answers."""
    repeats.keep_in(None)
    shutil.rmtree(_folder(home), ignore_errors=True)
    dspy.configure_cache(enable_disk_cache=False, memory_max_entries=_MEMORY_ENTRIES)
