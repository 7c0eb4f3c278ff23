"""What a model in the process said before, kept so that the same question is not computed twice.

Only for questions whose answer is the same each time. In memory for the process; on disk too where
a folder is given (`program.models.cache`), so that a run that is repeated finds it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

_IN_MEMORY = 4096
_DISK_BYTES = 2 * 1024**3

_disk: Any = None


def keep_in(folder: Path | None) -> None:
    """Keep answers in ``folder`` from now on; ``None``: in memory only."""
    global _disk
    before, _disk = _disk, None
    if before is not None:
        before.close()
    if folder is not None:
        from diskcache import Cache

        _disk = Cache(str(folder), size_limit=_DISK_BYTES)


def remembering(ask: Callable[[str, str], str], model: str) -> Callable[[str, str], str]:
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

    return lru_cache(maxsize=_IN_MEMORY)(ask_once)
