"""Imports a file: checks all of it, then stores it user by user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

from program.errors import DataError, ForgottenUserError, StoreError, StoreUnavailableError
from program.files import open_utf8
from program.store.importers.export_file import import_export, is_export
from program.store.importers.reader import Reader, UserRecords
from program.store.importers.report import BadRecord, ImportReport
from program.store.importers.sniff import Format, open_reader
from program.store.user_store import UserStore
from program.task import Task, get_task, task_spec
from program.text import counted

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the total to read."""

_BATCH_BYTES, _BATCH_USERS = 200_000, 500
"""A transaction is large enough after either: about 800 interactions. Other writers wait for it."""

_SERVER_BATCH_BYTES = 1_000_000
"""On a server nobody waits but who writes the same users, and a transaction costs more."""

_CLOCK_ERROR = timedelta(minutes=2)


def import_users(
    store: UserStore,
    path: str | Path,
    *,
    task: str | Task | None = None,
    format: Format = "auto",  # noqa: A002 - the name of the command-line option
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import the users and interaction histories of a file. Open queries in it are ignored.

    The file is read twice, with some users in memory at a time. The first pass checks all records, so a
    bad record stops the import before anything is written. The second pass stores about a thousand
    interactions in each transaction, or some thousand on a server, and all of a user in one. Stored
    interactions are skipped, so an import can be repeated or resumed; so are users and interactions that
    were forgotten.

    An export of a user (`program.export.export_user`) brings its profile and persona versions, too, unless
    the user has some already.

    Args:
        store: Receives the users.
        path: The file: JSON lines, a JSON list, CSV with a header, a LaMP or OPPU history file, or an
            export of a user, also packed with gzip; ``-`` is standard input.
        task: The users' task: its name, ``module:TASK``, or an installed task itself; ``None`` for
            free-text, or the task that an export names.
        format: Layout of the file.
        skip_bad: Skip and report bad records instead of raising `DataError`. A user without a valid
            record is skipped as well.
        progress: Called after each user in the first pass, and after each transaction.

    Raises:
        UnknownTaskError: ``task`` is neither installed nor the path of a task.
        DataError: The file cannot be read, has a bad record without ``skip_bad``, or has two users with
            the same id.
        StoreError: A user is stored with another task, or a stored interaction has the same id and
            other content. Users before that one are stored.

    Example:
        >>> from program import UserStore
        >>> line = '{"user_id": "ana", "query": "Dinner?", "response": "Lentils."}'
        >>> _ = Path("history.jsonl").write_text(line)
        >>> with UserStore("users.db") as store:
        ...     report = import_users(store, "history.jsonl")
        >>> report.users, report.interactions, report.new
        (1, 1, 1)
    """
    spec = task_spec("free-text" if task is None else task)
    declared = get_task(spec)
    with open_utf8(path) as source:
        if format == "export" or (format == "auto" and is_export(source)):
            return import_export(store, source, None if task is None else spec)
        reader = open_reader(source, format, declared)
        skipped, warnings = _check(
            reader, skip_bad, lambda position: progress and progress(position, 2 * source.size)
        )
        users = interactions = new = forgotten = 0
        if store._database.is_sqlite:
            batches = _batches(reader, _BATCH_BYTES)
        else:
            batches = _one_ahead(_batches(reader, _SERVER_BATCH_BYTES))
        for batch in batches:
            added, left_out = _store(store, batch, spec)
            new += added
            forgotten += left_out
            users += len(batch)
            interactions += sum(len(record.interactions) for record in batch)
            if progress:
                progress(source.size + batch[-1].position, 2 * source.size)
            del batch  # it must not lie beside the next one
        return ImportReport(
            users=users,
            interactions=interactions,
            new=new,
            skipped=tuple(skipped),
            warnings=(*reader.warnings(), *warnings),
            forgotten=forgotten,
        )


def _batches(reader: Reader, batch_bytes: int) -> Iterator[list[UserRecords]]:
    """Yield the users that are stored, about ``batch_bytes`` of the file at a time, each user once."""
    batch: list[UserRecords] = []
    start = 0
    for record in reader.users():
        if isinstance(record, UserRecords) and (record.interactions or not record.bad):
            batch.append(record)
            if record.position - start >= batch_bytes or len(batch) >= _BATCH_USERS:
                yield batch
                batch, start = [], record.position
    if batch:
        yield batch


def _one_ahead(batches: Iterator[list[UserRecords]]) -> Iterator[list[UserRecords]]:
    """Yield batches; a thread reads the next one while a server stores this one.

    SQLite gives the interpreter's lock up and takes it again for each row, so that both would wait.
    """

    def read() -> list[UserRecords]:
        return next(batches, [])

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(read)
        while batch := coming.result():
            coming = thread.submit(read)
            yield batch


def _store(store: UserStore, batch: Sequence[UserRecords], task: str) -> tuple[int, int]:
    """Store users; return the number of new interactions, and of users left out because they were forgotten.

    Those before one that is refused are stored.
    """
    try:
        return store.append_many({record.user_id: record.interactions for record in batch}, task=task), 0
    except StoreUnavailableError:
        raise
    except StoreError:
        new = forgotten = 0
        for record in batch:
            try:
                new += store.append(record.user_id, record.interactions, task=task)
            except ForgottenUserError:
                forgotten += 1
        return new, forgotten


def _check(
    reader: Reader, skip_bad: bool, progress: Callable[[int], object]
) -> tuple[list[BadRecord], tuple[str, ...]]:
    """Read the whole file; return the bad records, and a warning if times lie in the future."""
    skipped: list[BadRecord] = []
    first_at: dict[str, str] = {}
    latest = now = datetime.now(timezone.utc) + _CLOCK_ERROR
    in_future = 0
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
            for interaction in record.interactions:
                if interaction.timestamp is not None and interaction.timestamp > now:
                    in_future += 1
                    latest = max(latest, interaction.timestamp)
            progress(record.position)
    return skipped, _future_warning(reader.time_field, in_future, latest)


def _future_warning(field: str, count: int, latest: datetime) -> tuple[str, ...]:
    if not count:
        return ()
    return (
        f"`{field}` is in the future for {counted(count, 'interaction')} (the latest: "
        f"{latest:%Y-%m-%d %H:%M} UTC), which will count as newer than what is observed now; a time without "
        "an offset counts as UTC, so write local times with theirs, such as +09:00",
    )
