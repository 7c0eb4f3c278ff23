"""Imports a file: checks all of it, then stores it user by user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from program.errors import DataError
from program.store.importers.reader import Reader, UserRecords
from program.store.importers.report import BadRecord, ImportReport
from program.store.importers.sniff import Format, open_reader
from program.store.user_store import UserStore
from program.task import get_task

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the total to read."""


def import_users(
    store: UserStore,
    path: str | Path,
    *,
    task: str = "free-text",
    format: Format = "auto",  # noqa: A002 - the name of the command-line option
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import the users and interaction histories of a file. Open queries in it are ignored.

    The file is read twice, with one user in memory at a time. The first pass checks all records, so a
    bad record stops the import before anything is written. The second pass stores each user in one
    transaction. Stored interactions are skipped, so an import can be repeated or resumed.

    Args:
        store: Receives the users.
        path: The file.
        task: Name of the users' task.
        format: Layout of the file.
        skip_bad: Skip and report bad records instead of raising `DataError`.
        progress: Called after each user.

    Raises:
        UnknownTaskError: ``task`` is not installed.
        DataError: The file cannot be read, has a bad record without ``skip_bad``, or has two users with
            the same id.
        StoreError: A user is stored with another task, or a stored interaction has the same id and
            other content. Users before that one are stored.

    Example:
        >>> from program import UserStore
        >>> line = '{"user_id": "ana", "query": "Dinner?", "response": "Lentils."}'
        >>> _ = Path("history.jsonl").write_text(line)
        >>> with UserStore("users.db") as store:
        ...     import_users(store, "history.jsonl")
        ImportReport(users=1, interactions=1, new=1, skipped=())
    """
    declared, path = get_task(task), Path(path)
    reader = open_reader(path, format, declared)
    size = path.stat().st_size
    skipped = _check(reader, skip_bad, lambda position: progress and progress(position, 2 * size))
    users = interactions = new = 0
    for record in reader.users():
        if isinstance(record, UserRecords):
            new += store.append(record.user_id, record.interactions, task=declared.name)
            users += 1
            interactions += len(record.interactions)
            if progress:
                progress(size + record.position, 2 * size)
    return ImportReport(users=users, interactions=interactions, new=new, skipped=tuple(skipped))


def _check(reader: Reader, skip_bad: bool, progress: Callable[[int], object]) -> list[BadRecord]:
    skipped: list[BadRecord] = []
    first_at: dict[str, str] = {}
    for record in reader.users():
        bad = record.bad if isinstance(record, UserRecords) else (record,)
        if bad and not skip_bad:
            raise DataError(f"{bad[0]}; fix it, or skip bad records with `--skip-bad`")
        skipped += bad
        if isinstance(record, UserRecords):
            if record.user_id in first_at:
                raise DataError(
                    f"two users have the id {record.user_id!r}: {first_at[record.user_id]} and "
                    f"{record.where}; nothing was imported, give them different ids"
                )
            first_at[record.user_id] = record.where
            progress(record.position)
    return skipped
