"""Caches of model answers, in the data directory.

DSPy's cache holds answers about users in a folder that all programs of the machine share. Ours is in
the data directory, bounded, and emptied when a user is forgotten, because an entry does not name
its user. The answers of the embedded model are beside it (`cache_answers`).
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
from dspy.clients.cache import Cache

from program.side_files import files_set_aside, is_cache_damage, make_private, set_aside
from program.text import one_line
from program.usage import current_exchange

if TYPE_CHECKING:
    from program.store import UserStore

_MEMORY_ENTRIES = 50_000
_DISK_BYTES = 2 * 1024**3
_EMBEDDED_MEMORY_ENTRIES = 4096

_MAX_REASON_CHARS = 300
_SHARDS = 16
"""Number of databases of DSPy's cache."""

logger = logging.getLogger("personaagent.program.models")

_disk: Any = None
_warned = False


def use_cache(home: Path) -> None:
    """Cache answers in the data directory ``home`` instead of DSPy's own folder."""
    folder = _folder(home)
    try:
        try:
            _open(folder)
        except Exception as error:  # other errors are raised again
            if not is_cache_damage(error):
                raise
            name = set_aside(folder).name
            logger.warning("the answer cache was damaged and is now %r; a new one is used", name)
            _open(folder)
    except Exception as error:  # noqa: BLE001 - a cache must never be in the way
        reason = one_line(str(error), _MAX_REASON_CHARS)
        logger.warning("answers are cached in memory only: cannot use %r: %s", str(folder), reason)
        set_answer_folder(None)
        _install(UsableReplyCache(False, True, "", _DISK_BYTES, _MEMORY_ENTRIES))


def _open(folder: Path) -> None:
    for name in (*(f"{shard:03}" for shard in range(_SHARDS)), "embedded"):
        part = folder / name
        part.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite would create it readable by others; its side files have the same mode.
        (part / "cache.db").touch(mode=0o600)
        make_private(part / "cache.db")
    folder.chmod(0o700)
    cache = UsableReplyCache(True, True, str(folder), _DISK_BYTES, _MEMORY_ENTRIES)
    set_answer_folder(folder / "embedded")
    _install(cache)


def erase_answers(store: UserStore, user_id: str, home: Path, *, whole: bool) -> int:
    """Delete all cached answers, and return how many there were: an entry does not name its user.

    The `program.store.erasers.Eraser` of this package.
    """
    count = _count_entries(_folder(home))
    empty_cache(home)
    return count


def _count_entries(folder: Path) -> int:
    """Return the entries of the caches in ``folder``; 0 for one that cannot be read, which is deleted."""
    import diskcache

    count = 0
    for database in folder.glob("*/cache.db"):
        with suppress(Exception), diskcache.Cache(str(database.parent)) as cache:
            count += len(cache)
    return count


def empty_cache(home: Path) -> None:
    """Delete all cached answers."""
    set_answer_folder(None)
    for folder in (_folder(home), *files_set_aside(_folder(home))):
        shutil.rmtree(folder, ignore_errors=True)
        # A file may be in the place of the folder.
        with suppress(OSError):
            folder.unlink(missing_ok=True)
    _install(UsableReplyCache(False, True, "", _DISK_BYTES, _MEMORY_ENTRIES))


class UsableReplyCache(Cache):  # type: ignore[misc]
    """DSPy's cache, for replies that turned out to be usable.

    DSPy stores a reply before it is parsed. A bad one would fail the same command again when the
    server is healthy, so a reply waits for the verdict of `program.models.adapter`.
    """

    def get(self, *arguments: Any, **options: Any) -> Any:
        """Return a cached reply, and note the hit."""
        reply = _attempt(lambda: super(UsableReplyCache, self).get(*arguments, **options))
        exchange = current_exchange()
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


def _attempt(action: Callable[[], Any]) -> Any:
    """Return what a cache answers; ``None``, with one warning, if it is damaged or its disk is full."""
    global _warned
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - a damaged entry may raise anything; it costs one call
        if not _warned:
            _warned = True
            logger.warning("the answer cache failed (%s); the run goes on without it", type(error).__name__)
        return None


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
        answer = _attempt(lambda: disk.get(key))
        if answer is None:
            answer = ask(kind, body)
            _attempt(lambda: disk.set(key, answer))
        return str(answer)

    return lru_cache(maxsize=_EMBEDDED_MEMORY_ENTRIES)(ask_disk)
