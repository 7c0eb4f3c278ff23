"""The keys of `personaagent serve`: who may do what, for one user or for all.

Each key is one private file in the folder ``keys`` of the data directory, so creating and revoking need no
lock, and a running server sees both with its next request. A file holds the hash of a key, never the key.
What a file says is kept in memory; before each use the file system is asked whether it is still that file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from program.errors import ConfigError, DataError
from program.plain import FieldError, decode
from program.saved import write_private
from program.store.checks import check_user_id

if TYPE_CHECKING:
    from program.store import UserStore

Right = Literal["read", "write", "admin"]
"""``read``: context, persona, export, chat. ``write``: record, correct, align, roll back. ``admin``: delete.
"""

RIGHTS: tuple[Right, ...] = get_args(Right)

FOLDER = "keys"
_TOKEN = re.compile(r"pa_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_ID = re.compile(r"[0-9a-f]{12}")
_AGE = re.compile(r"([1-9][0-9]{0,4})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_NO_HASH = "0" * 64
_MOST_KEPT = 10_000


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a key allows.

    Attributes:
        id: Names the key in lists and logs; it opens nothing.
        user_id: The one user it is for; ``None`` for all users.
        rights: What may be done.
        expires_at: When it ends; ``None`` for never.

    Example:
        >>> now = datetime(2026, 11, 26, tzinfo=timezone.utc)
        >>> key = Key(id="0123456789ab", user_id="ana", rights=("read",), created_at=now)
        >>> key.opens("ana"), key.opens("ben"), key.has("write"), key.expired(now)
        (True, False, False, False)
    """

    id: str
    user_id: str | None
    rights: tuple[Right, ...]
    created_at: datetime
    expires_at: datetime | None = None

    def opens(self, user_id: str) -> bool:
        """Return whether the key is for this user."""
        return self.user_id is None or self.user_id == user_id

    def has(self, right: Right) -> bool:
        """Return whether the key has a right; none includes another."""
        return right in self.rights

    def expired(self, now: datetime) -> bool:
        """Return whether the key has ended at this time."""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, kw_only=True)
class _Stored:
    id: str
    sha256: str
    user_id: str | None
    # One text, because a stored list could hold anything.
    rights: str
    created_at: str
    expires_at: str | None = None


class Keys:
    """The keys in a data directory.

    Args:
        home: The data directory.

    Example:
        >>> keys = Keys(Path())
        >>> token, key = keys.create(user_id="ana", rights=["read"])
        >>> keys.find(token) == key, keys.find("pa_made_up")
        (True, None)
        >>> keys.revoke(key.id)
        >>> print(keys.find(token))
        None
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        # What each file said, and what tells that it is still the same file.
        self._kept: dict[Path, tuple[tuple[int, ...], tuple[Key, str]]] = {}

    def create(
        self, *, user_id: str | None, rights: Collection[str] = ("read",), expires: timedelta | None = None
    ) -> tuple[str, Key]:
        """Make a key and return it, which nothing can show again, and what it allows.

        Args:
            user_id: The one user it is for; ``None`` for all users.
            rights: At least one of `RIGHTS`.
            expires: How long it lives, above 0; ``None`` for ever.

        Raises:
            ConfigError: A right is unknown, there is none, or ``expires`` is not above 0.
            StoreError: The user id is invalid.
            DataError: The key cannot be written.
        """
        chosen = parse_rights(rights)
        if expires is not None and expires <= timedelta(0):
            raise ConfigError(f"`expires` must be above 0, got {expires!r}")
        if user_id is not None:
            # A store of an earlier version may hold ids that are refused today.
            check_user_id(user_id, stored=True)
        now = datetime.now(timezone.utc).replace(microsecond=0)
        key = Key(
            id=secrets.token_hex(6),
            user_id=user_id,
            rights=chosen,
            created_at=now,
            expires_at=None if expires is None else now + expires,
        )
        token = f"pa_{key.id}_{secrets.token_urlsafe(32)}"
        stored = {
            "id": key.id,
            "sha256": _hash(token),
            "user_id": user_id,
            "rights": ",".join(key.rights),
            "created_at": now.isoformat(),
            "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        }
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_private(self._path(key.id), lambda part: part.write_text(json.dumps(stored), "utf-8"))
        except OSError as error:
            raise DataError(f"cannot write a key to `{self._folder}`: {error.strerror}") from error
        return token, key

    def find(self, token: str) -> Key | None:
        """Return what a key allows, also if it has expired; ``None`` if it is not one of these keys.

        The time taken depends on the key's id, which is no secret, and not on how much of the rest is right.

        Raises:
            DataError: The key's file is damaged.
        """
        match = _TOKEN.fullmatch(token)
        stored = None if match is None else self._look_up(self._path(match[1]))
        known = _NO_HASH if stored is None else stored[1]
        if hmac.compare_digest(_hash(token), known) and stored is not None:
            return stored[0]
        return None

    def all(self) -> list[Key]:
        """Return all keys, oldest first, with those that have expired.

        Raises:
            DataError: A file is damaged.
        """
        stored = [self._read(path) for path in self._paths()]
        return sorted((row[0] for row in stored if row), key=lambda key: (key.created_at, key.id))

    def revoke(self, key_id: str) -> None:
        """Delete a key.

        Raises:
            ConfigError: There is no such key.
        """
        if not _ID.fullmatch(key_id):
            raise ConfigError(f"{key_id!r} is not the id of a key; see `personaagent keys list`")
        try:
            self._path(key_id).unlink()
        except FileNotFoundError as error:
            raise ConfigError(f"there is no key {key_id!r}; see `personaagent keys list`") from error

    def revoke_user(self, user_id: str) -> int:
        """Delete all keys of one user, and return how many there were."""
        own = [key for key in self.all() if key.user_id == user_id]
        for key in own:
            self._path(key.id).unlink(missing_ok=True)
        return len(own)

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{key_id}.json"

    def _paths(self) -> Iterable[Path]:
        return sorted(path for path in self._folder.glob("*.json") if _ID.fullmatch(path.stem))

    def _look_up(self, path: Path) -> tuple[Key, str] | None:
        """Return what `_read` does, without reading a file that has not changed."""
        try:
            status = path.stat()
        except OSError:
            self._kept.pop(path, None)
            return self._read(path)
        # A file is written once, under a new name, so that any change is another file.
        same = (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == same:
            return kept[1]
        stored = self._read(path)
        if stored is not None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[path] = same, stored
        return stored

    def _read(self, path: Path) -> tuple[Key, str] | None:
        """Return a key and its hash; ``None`` if it does not exist."""
        try:
            stored = decode(_Stored, json.loads(path.read_text("utf-8")))
            rights = tuple(stored.rights.split(","))
            if not set(rights) <= set(RIGHTS) or len(stored.sha256) != len(_NO_HASH):
                raise FieldError("is damaged")
            key = Key(
                id=path.stem,
                user_id=stored.user_id,
                rights=cast("tuple[Right, ...]", rights),
                created_at=datetime.fromisoformat(stored.created_at),
                expires_at=datetime.fromisoformat(stored.expires_at) if stored.expires_at else None,
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(
                f"key file `{path}` cannot be read: {error}; delete it, and make a new key"
            ) from error
        return key, stored.sha256


def erase_keys(store: UserStore, user_id: str, home: Path, *, whole: bool) -> int:
    """Delete the keys of a forgotten user (see `program.store.erasers.Eraser`)."""
    return Keys(home).revoke_user(user_id) if whole else 0


def parse_rights(names: Iterable[str]) -> tuple[Right, ...]:
    """Return rights in their own order.

    Raises:
        ConfigError: One is unknown, or there is none.

    Example:
        >>> parse_rights([" write", "read"])
        ('read', 'write')
    """
    given = {name.strip() for name in names}
    if unknown := sorted(given - set(RIGHTS)):
        raise ConfigError(f"`rights` must be of {', '.join(RIGHTS)}, got {unknown[0]!r}")
    if not given:
        raise ConfigError(f"`rights` must name at least one of {', '.join(RIGHTS)}")
    return tuple(right for right in RIGHTS if right in given)


def parse_age(text: str) -> timedelta:
    """Return a duration like ``90d``, ``12h`` or ``30m``.

    Raises:
        ConfigError: It is written in another way.

    Example:
        >>> parse_age("90d").days
        90
    """
    match = _AGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"`--expires` must be a number with d, h or m, as in 90d, got {text!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
