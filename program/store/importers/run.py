"""Import a file: check all of it, then store it user by user."""

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
"""Called with the work done and the whole work, in bytes to read."""


def import_users(
    store: UserStore,
    path: Path,
    *,
    task: str,
    format: Format = "auto",  # noqa: A002 - as the command line calls it
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Store the histories of a file; queries in it are left alone, they are the future.

    The file is read twice, holding one user at a time: first all of it is checked, so a bad record
    stops the import before anything is written; then each user is stored in one transaction.
    What is already stored is skipped, so an import can be repeated or resumed.

    Args:
        store: Where to.
        path: The file.
        task: Name of the task whose histories these are.
        format: Its layout.
        skip_bad: Leave out records that cannot be stored, and report them.
        progress: Told how far it is.

    Raises:
        UnknownTaskError: There is no such task.
        DataError: The file cannot be read; it has a bad record and ``skip_bad`` is off; or two
            users in it have the same id.
        StoreError: A user is already stored with another task, or a stored interaction has the
            same id and other content. Users before that one are stored.
    """
    declared = get_task(task)
    reader = open_reader(path, format, declared)
    size = path.stat().st_size
    skipped = _check(reader, skip_bad, lambda done: progress and progress(done, 2 * size))
    users = interactions = new = 0
    for found in reader.users():
        if isinstance(found, UserRecords):
            new += store.append(found.user_id, found.interactions, task=declared.name)
            users += 1
            interactions += len(found.interactions)
            if progress:
                progress(size + found.done, 2 * size)
    return ImportReport(users=users, interactions=interactions, new=new, skipped=tuple(skipped))


def _check(reader: Reader, skip_bad: bool, progress: Callable[[int], object]) -> list[BadRecord]:
    skipped: list[BadRecord] = []
    seen: dict[str, str] = {}
    for found in reader.users():
        bad = found.bad if isinstance(found, UserRecords) else (found,)
        if bad and not skip_bad:
            raise DataError(f"{bad[0]}; fix it, or leave such records out with --skip-bad")
        skipped += bad
        if isinstance(found, UserRecords):
            if found.user_id in seen:
                raise DataError(
                    f"two users have the id {found.user_id!r}: {seen[found.user_id]} and {found.where}; "
                    "nothing was imported, give them different ids"
                )
            seen[found.user_id] = found.where
            progress(found.done)
    return skipped
