"""Caches of model answers, in the data directory.

DSPy's cache holds what models said about users, and its default folder is shared by all programs of
the machine. Ours is in the data directory, bounded, and emptied if a user is forgotten, because an
entry does not say whose it is. Beside it lie the answers of the model in the process
(`remember_answers`).
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
    """Keep answers in the data directory ``home`` instead of DSPy's own folder."""
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    dspy.configure_cache(
        disk_cache_dir=str(folder), disk_size_limit_bytes=_DISK_BYTES, memory_max_entries=_MEMORY_ENTRIES
    )
    keep_answers_in(folder / "embedded")


def empty_cache(home: Path) -> None:
    """Delete all cached answers."""
    keep_answers_in(None)
    shutil.rmtree(_folder(home), ignore_errors=True)
    dspy.configure_cache(enable_disk_cache=False, memory_max_entries=_MEMORY_ENTRIES)


def _folder(home: Path) -> Path:
    return home / "cache" / "answers"


def keep_answers_in(folder: Path | None) -> None:
    """Keep answers in ``folder`` from now on; ``None``: in memory only."""
    global _disk
    before, _disk = _disk, None
    if before is not None:
        before.close()
    if folder is not None:
        from diskcache import Cache

        _disk = Cache(str(folder), size_limit=_DISK_BYTES)


def remember_answers(ask: Callable[[str, str], str], model: str) -> Callable[[str, str], str]:
    """Return ``ask`` with a memory; its errors are not kept.

    Args:
        ask: Gives the answer to a kind of question and a question.
        model: Everything beside the two that changes an answer.
    """

    def ask_once(kind: str, question: str) -> str:
        disk = _disk
        if disk is None:
            return ask(kind, question)
        key = hashlib.sha256("\n".join([model, kind, question]).encode()).hexdigest()
        found = disk.get(key)
        if found is None:
            found = ask(kind, question)
            disk.set(key, found)
        return str(found)

    return lru_cache(maxsize=_EMBEDDED_MEMORY_ENTRIES)(ask_once)
