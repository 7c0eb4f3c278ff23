"""Caches of model answers, in the data directory.

DSPy's cache holds answers about users in a folder that all programs of the machine share. Ours is in
the data directory, bounded, and emptied when a user is forgotten, because an entry does not name
its user. The answers of the embedded model are beside it (`cache_answers`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import dspy

_MEMORY_ENTRIES = 50_000
_DISK_BYTES = 2 * 1024**3
_EMBEDDED_MEMORY_ENTRIES = 4096

_disk: Any = None


def use_cache(home: Path) -> None:
    """Cache answers in the data directory ``home`` instead of DSPy's own folder."""
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    dspy.configure_cache(
        disk_cache_dir=str(folder), disk_size_limit_bytes=_DISK_BYTES, memory_max_entries=_MEMORY_ENTRIES
    )
    set_answer_folder(folder / "embedded")


def empty_cache(home: Path) -> None:
    """Delete all cached answers."""
    set_answer_folder(None)
    shutil.rmtree(_folder(home), ignore_errors=True)
    dspy.configure_cache(enable_disk_cache=False, memory_max_entries=_MEMORY_ENTRIES)


def _folder(home: Path) -> Path:
    return home / "cache" / "answers"


def set_answer_folder(folder: Path | None) -> None:
    """Set the folder of `cache_answers`; ``None`` caches in memory only."""
    global _disk
    previous, _disk = _disk, None
    if previous is not None:
        previous.close()
    if folder is not None:
        from diskcache import Cache

        _disk = Cache(str(folder), size_limit=_DISK_BYTES)


def cache_answers(ask: Callable[[str, str], str], model: str) -> Callable[[str, str], str]:
    """Return a cached ``ask``, in memory and in the answer folder. Errors are not cached.

    Args:
        ask: Returns the answer to a request, given its kind and its body.
        model: Everything else that changes an answer; part of the key.
    """

    def ask_disk(kind: str, body: str) -> str:
        disk = _disk
        if disk is None:
            return ask(kind, body)
        key = hashlib.sha256("\n".join([model, kind, body]).encode()).hexdigest()
        answer = disk.get(key)
        if answer is None:
            answer = ask(kind, body)
            disk.set(key, answer)
        return str(answer)

    return lru_cache(maxsize=_EMBEDDED_MEMORY_ENTRIES)(ask_disk)
