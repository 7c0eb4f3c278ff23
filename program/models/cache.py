"""Caches of model answers, in the data directory.

DSPy's cache holds answers about users in a folder that all programs of the machine share. Ours is in
the data directory, bounded, and emptied when a user is forgotten, because an entry does not name
its user. The answers of the embedded model are beside it (`cache_answers`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.cache import Cache

from program.usage import current_exchange

_MEMORY_ENTRIES = 50_000
_DISK_BYTES = 2 * 1024**3
_EMBEDDED_MEMORY_ENTRIES = 4096

_disk: Any = None


def use_cache(home: Path) -> None:
    """Cache answers in the data directory ``home`` instead of DSPy's own folder."""
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _install(UsableReplyCache(True, True, str(folder), _DISK_BYTES, _MEMORY_ENTRIES))
    set_answer_folder(folder / "embedded")


def empty_cache(home: Path) -> None:
    """Delete all cached answers."""
    set_answer_folder(None)
    shutil.rmtree(_folder(home), ignore_errors=True)
    _install(UsableReplyCache(False, True, "", _DISK_BYTES, _MEMORY_ENTRIES))


class UsableReplyCache(Cache):  # type: ignore[misc]
    """DSPy's cache, for replies that turned out to be usable.

    DSPy stores a reply before it is parsed. A bad one would fail the same command again when the
    server is healthy, so a reply waits for the verdict of `program.models.adapter`.
    """

    def get(self, *arguments: Any, **options: Any) -> Any:
        """Return a cached reply, and note the hit."""
        reply, exchange = super().get(*arguments, **options), current_exchange()
        if reply is not None and exchange is not None:
            exchange.cache_hit = True
        return reply

    def put(self, *arguments: Any, **options: Any) -> None:
        """Store a reply: at once outside an exchange, otherwise if it is usable."""
        store = partial(super().put, *arguments, **options)
        exchange = current_exchange()
        if exchange is None:
            store()
        else:
            exchange.to_cache.append(store)


def _install(cache: UsableReplyCache) -> None:
    # The lock that DSPy holds while it builds its default cache on first use.
    with dspy._cache_lock:
        dspy.cache = cache


def _folder(home: Path) -> Path:
    return home / "cache" / "answers"


def set_answer_folder(folder: Path | None) -> None:
    """Set the folder of `cache_answers`; ``None`` caches in memory only."""
    global _disk
    previous, _disk = _disk, None
    if previous is not None:
        previous.close()
    if folder is not None:
        import diskcache

        _disk = diskcache.Cache(str(folder), size_limit=_DISK_BYTES)


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
