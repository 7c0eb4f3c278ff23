"""Forgets users and interactions wherever texts about them are kept, and says what was done.

The store comes first: one transaction notes the hash that keeps an import from bringing them back, and
deletes the rows, so that nothing is reachable any more. Then come all other places, by `Eraser`. Everything
can be repeated: a command that was killed is run again and ends the work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from program.errors import ConfigError, StoreError
from program.home import home as default_home
from program.store import forgetting, tombstones, users
from program.store.database import Database
from program.text import counted

if TYPE_CHECKING:
    from program.store.user_store import UserStore

ERASERS = "personaagent.erasers"
"""The group of entry points that name the erasers of all packages; ``traced-calls`` deletes traced calls."""

FOLDER_ERASERS = "personaagent.folder-erasers"
"""The group of entry points that name what deletes from folders that the caller names."""

SHARED = frozenset({"cached answers"})
"""What is emptied as a whole, because it does not say whom it is about."""

AT_ONCE_BYTES = 256 * 1024**2
"""A larger SQLite file is not rewritten for one user: `UserStore.compact` does it when there is time."""

OUT_OF_REACH = (
    "backups and copies of the files",
    "traces sent elsewhere, and pages and files that were exported",
    "run folders of evaluations that were not named",
    "DSPy's own cache of what was asked from Python without `personaagent`'s cache",
)

_WAIT = 10.0
"""Seconds to wait for other connections before the file is left for later."""


class Eraser(Protocol):
    """Deletes what one place beside the store keeps of a user: traces, cached answers, fleet steps.

    Constraints: what may quote an interaction is deleted, also if only some are to be forgotten; a place that
    keeps texts about many at once deletes all of the user. It can be repeated, and interrupted at any point.

    Example:
        >>> def erase_notes(store, user_id, home, *, whole):
        ...     note = home / "notes" / user_id
        ...     existed = note.exists()
        ...     note.unlink(missing_ok=True)
        ...     return int(existed)
    """

    def __call__(self, store: UserStore, user_id: str, home: Path, *, whole: bool) -> int:
        """Return how many things were deleted.

        Args:
            store: The user's store; the user may be gone from it.
            user_id: The user.
            home: The data directory.
            whole: Whether the user is to be forgotten, and not only some interactions.
        """
        ...


class FolderEraser(Protocol):
    """Deletes what one kind of folder holds of a user, wherever the folder lies: run folders of evaluations.

    Constraints: as for `Eraser`. A module with both functions is one.

    Example:
        >>> class Notes:
        ...     def owns(self, folder):
        ...         return (folder / "notes").is_dir()
        ...
        ...     def erase(self, folder, user_id, *, whole):
        ...         note = folder / "notes" / user_id
        ...         existed = note.exists()
        ...         note.unlink(missing_ok=True)
        ...         return int(existed)
        >>> Notes().owns(Path("somewhere"))
        False
    """

    def owns(self, folder: Path) -> bool:
        """Return whether this is such a folder; change nothing."""
        ...

    def erase(self, folder: Path, user_id: str, *, whole: bool) -> int:
        """Return how many things were deleted.

        Args:
            folder: A folder that it owns.
            user_id: The user.
            whole: As for `Eraser`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What was done about a request to forget. It holds no content and no user id.

    Attributes:
        subject: The hash of the user's id, 64 hexadecimal digits.
        at: When it was done, in UTC.
        erased: How much was deleted, by what it was.
        pending: Why bytes of deleted rows may still be in a file or on a server; empty if there are none.
        out_of_reach: Where there may be more that this cannot delete.

    Example:
        >>> from program import UserStore
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.observe("ana", query="Which tea?", response="Mint.")
        ...     print(store.forget("ana"))
        deleted: 1 user, 1 interaction; no byte is left in the files
    """

    subject: str
    at: datetime
    erased: Mapping[str, int]
    pending: str = ""
    out_of_reach: tuple[str, ...] = OUT_OF_REACH

    def __str__(self) -> str:
        deleted = list_counts(self.erased)
        left = f"bytes may be left: {self.pending}" if self.pending else "no byte is left in the files"
        return f"deleted: {deleted or 'nothing more'}; {left}"


def list_counts(counts: Mapping[str, Any]) -> str:
    """Return what was deleted and how much of it, in words; empty if nothing was.

    Example:
        >>> list_counts({"interactions": 1, "alignments": 0, "traced calls": 1200, "pending": ""})
        '1 interaction, 1,200 traced calls'
    """
    return ", ".join(
        counted(count, name.removesuffix("s"))
        for name, count in counts.items()
        if isinstance(count, int) and count
    )


def forget_user(
    store: UserStore,
    database: Database,
    user_id: str,
    *,
    home: Path | None,
    actor: str,
    also: Sequence[str | Path] = (),
) -> Receipt:
    """Forget a user (see `UserStore.forget`)."""
    folders = _owners(also)
    with database.read() as connection:
        known = users.exists(connection, user_id) or tombstones.is_forgotten(connection, user_id)
    erased: dict[str, int] = {}
    if known:
        erased |= database.change(lambda connection: forgetting.forget_user(connection, user_id))
    erased |= _erase(store, user_id, home, folders, whole=True)
    if not known:
        if not any(count for name, count in erased.items() if name not in SHARED):
            store.user(user_id)  # raises, and suggests a similar id
        database.change(lambda connection: tombstones.bury_user(connection, user_id))
    return _finish(database, "forget user", user_id, actor, erased)


def forget_interactions(
    store: UserStore,
    database: Database,
    user_id: str,
    interaction_ids: Collection[str],
    *,
    home: Path | None,
    actor: str,
    also: Sequence[str | Path] = (),
) -> Receipt:
    """Forget interactions (see `UserStore.forget_interactions`)."""
    folders = _owners(also)
    erased = database.change(
        lambda connection: forgetting.forget_interactions(connection, user_id, interaction_ids)
    )
    erased |= _erase(store, user_id, home, folders, whole=False)
    return _finish(database, "forget interactions", user_id, actor, erased)


class _Owned(NamedTuple):
    """A folder that was named, and what deletes from it."""

    name: str
    eraser: FolderEraser
    folder: Path


def _owners(also: Sequence[str | Path]) -> list[_Owned]:
    """Return what deletes from each folder.

    Raises:
        ConfigError: Nothing does from one of them; nothing was changed yet.
    """
    found = []
    for path in dict.fromkeys(Path(path).expanduser() for path in also):
        owner = next((row for row in _folder_erasers().items() if row[1].owns(path)), None)
        if owner is None:
            what = "is not a folder of a run" if path.exists() else "does not exist"
            raise ConfigError(
                f"`{path}` {what}; nothing was forgotten: name folders that `personaagent eval run` wrote"
            )
        found.append(_Owned(*owner, path))
    return found


def _erase(
    store: UserStore, user_id: str, home: Path | None, folders: Sequence[_Owned], *, whole: bool
) -> dict[str, int]:
    """Call every eraser, also after one that failed, and raise at the end."""
    home = home or default_home()
    work = [(name, partial(erase, store, user_id, home, whole=whole)) for name, erase in _erasers().items()]
    work += [(name, partial(eraser.erase, path, user_id, whole=whole)) for name, eraser, path in folders]
    erased: dict[str, int] = {}
    failed: list[str] = []
    for name, erase in work:
        try:
            erased[name] = erased.get(name, 0) + erase()
        except Exception as error:  # noqa: BLE001 - the others must still be erased
            failed.append(f"{name} ({error})")
    if failed:
        raise StoreError(
            f"the store holds nothing more of it, but not all was deleted elsewhere: {'; '.join(failed)}; "
            "mend that, and forget it once more"
        )
    return erased


@cache
def _erasers() -> dict[str, Eraser]:
    return _load(ERASERS)


@cache
def _folder_erasers() -> dict[str, FolderEraser]:
    return _load(FOLDER_ERASERS)


def _load(group: str) -> dict[str, Any]:
    points = sorted(entry_points(group=group), key=lambda point: point.name)
    return {point.name.replace("-", " "): point.load() for point in points}


def _finish(database: Database, action: str, user_id: str, actor: str, erased: dict[str, int]) -> Receipt:
    if database.is_sqlite and Path(database.name).stat().st_size <= AT_ONCE_BYTES:
        pending = database.compact(wait=_WAIT)
    else:
        pending = "`personaagent store compact` rewrites the tables when there is time"
    details = {**erased, "pending": pending}
    entry = database.change(lambda connection: forgetting.log(connection, action, user_id, actor, details))
    return Receipt(subject=entry.subject, at=entry.at, erased=erased, pending=pending)
