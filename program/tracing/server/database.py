"""The SQLite file: connections, transactions, and the SQL functions of our queries."""

from __future__ import annotations

import hashlib
import os
import queue
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from program.errors import StoreError
from program.side_files import is_damage, make_private
from program.tracing.server.codec import pack, unpack
from program.tracing.server.schema import DamagedTracesError, migrate

_IDLE_READERS = 8
_MIN_SQLITE = (3, 35)
_CHECKED_BYTES = 4 * 1024 * 1024
"""Files up to this size are checked when they are opened, which takes a few milliseconds."""
_PRAGMAS = (
    "journal_mode=WAL",
    # Commits survive the death of the process, though not a power failure.
    "synchronous=NORMAL",
    # Pages. Each checkpoint waits for the disk, and a span waits for the checkpoint.
    "wal_autocheckpoint=8000",
    "cache_size=-16000",
    "mmap_size=268435456",
)
# SQLite reports damage itself, or gives bytes that are not the text that was written.
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError, zlib.error)


class Database:
    """One trace file. Safe to share between threads; several processes may have it open.

    Args:
        path: The file. If missing, it is created with mode 0600, its folder with mode 0700.

    Raises:
        DamagedTracesError: The file is damaged, or is not a trace store.
        NewerTracesError: A newer program wrote the file.
        StoreError: The file cannot be opened, or SQLite is older than 3.35.

    Attributes:
        damage: The first error that showed damage; ``None`` if none did.
    """

    def __init__(self, path: Path) -> None:
        if sqlite3.sqlite_version_info < _MIN_SQLITE:
            raise StoreError(f"traces need SQLite 3.35, this Python has {sqlite3.sqlite_version}")
        self.path = path
        self.damage: Exception | None = None
        self._lock = threading.Lock()
        self._names: dict[str, int] = {}
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue(_IDLE_READERS)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its side files the mode of the main file, so that one comes first.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            make_private(path)
            self._writer = self._connect()
            with _closed_on_error(self._writer):
                _check(self._writer, path)
                migrate(self._writer, str(path))
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            if is_damage(error):
                raise DamagedTracesError(damage_advice(path, error)) from error
            raise StoreError(f"cannot open the trace store {str(path)!r}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        with _closed_on_error(db):
            for pragma in _PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
        # A text that is not UTF-8 must not hide the others.
        db.text_factory = _decode
        db.create_function("plain", 1, lambda text: text and unpack(text, lambda n: fetch_blob(db, n)))
        db.create_function("fold", 1, _fold, deterministic=True)
        db.create_function("convert_to", 2, _convert, deterministic=True)
        return db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction: committed when the block ends, rolled back if it raises."""
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:  # an interrupt, too, must roll back
                if isinstance(error, Exception) and is_damage(error):
                    self.damage = error
                self._names.clear()
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection for reading; it sees every committed transaction.

        Raises:
            StoreError: The file is damaged.
        """
        try:
            db = self._readers.get_nowait()
        except queue.Empty:
            db = self._connect()
        try:
            yield db
        except sqlite3.ProgrammingError:
            # A request has a value that SQLite cannot take.
            raise
        except _DAMAGE as error:
            raise DamagedTracesError(damage_advice(self.path, error)) from error
        finally:
            try:
                self._readers.put_nowait(db)
            except queue.Full:
                db.close()

    def intern_name(self, db: sqlite3.Connection, text: str) -> int:
        """Return the id of a project or op name; a new name is stored."""
        number = self._names.get(text)
        if number is None:
            db.execute("INSERT OR IGNORE INTO names (text, short) VALUES (?, ?)", (text, short_name(text)))
            number = int(db.execute("SELECT id FROM names WHERE text = ?", (text,)).fetchone()[0])
            self._names[text] = number
        return number

    def close(self) -> None:
        """Close every connection; the file can be opened again."""
        with self._lock:
            self._writer.close()
        while not self._readers.empty():
            self._readers.get_nowait().close()

    def erase_deleted(self) -> None:
        """Rewrite the file, so that neither it nor its side files hold deleted data."""
        with self._lock:
            self._writer.execute("PRAGMA secure_delete = ON")
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def damage_advice(path: Path, error: BaseException) -> str:
    """Return one line that says that the file is damaged, and what to do."""
    return (
        f"the trace store {str(path)!r} is damaged ({type(error).__name__}); move it away to start a new one"
    )


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raise SQLite's error if a small file is damaged. In a large one it is found when it is read."""
    if path.stat().st_size <= _CHECKED_BYTES:
        result = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if result != "ok":
            raise sqlite3.DatabaseError(result)


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")


@contextmanager
def _closed_on_error(db: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:  # an interrupt, too, must close the database
        db.close()
        raise


def name_id(db: sqlite3.Connection, text: str) -> int:
    """Return the id of a project or op name; -1, which no row has, if it is not stored."""
    row = db.execute("SELECT id FROM names WHERE text = ?", (text,)).fetchone()
    return -1 if row is None else int(row[0])


def short_name(text: str) -> str:
    """Return ``NAME`` of an op reference ``weave:///E/P/op/NAME:DIGEST``; other text unchanged.

    Example:
        >>> short_name("weave:///local/personaagent/op/personaagent.ask:v1")
        'personaagent.ask'
    """
    return text.rsplit("/", 1)[-1].rsplit(":", 1)[0] if text.startswith("weave:///") else text


def store_text(db: sqlite3.Connection, seq: int, text: str) -> str:
    """Return ``text`` packed; its long passages are stored once and marked as used by call ``seq``."""
    blob_ids: set[int] = set()

    def intern(piece: str) -> int:
        digest = hashlib.blake2b(piece.encode(), digest_size=16).digest()
        row = db.execute("SELECT id FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            cursor = db.execute("INSERT INTO blobs (digest, body) VALUES (?, ?)", (digest, piece))
            number = int(cursor.lastrowid or 0)
        else:
            number = int(row[0])
        blob_ids.add(number)
        return number

    packed = pack(text, intern)
    if blob_ids:
        rows = [(seq, number) for number in blob_ids]
        db.executemany("INSERT OR IGNORE INTO blob_uses VALUES (?, ?)", rows)
    return packed


def fetch_blob(db: sqlite3.Connection, number: int) -> str:
    """Return the passage that `store_text` stored under ``number``.

    Raises:
        sqlite3.DatabaseError: It is missing.
    """
    row = db.execute("SELECT body FROM blobs WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("a stored passage is missing")
    return str(row[0])


def _fold(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


def _convert(value: Any, to: str) -> Any:
    """Convert for ``$convert``; null if the value is missing or cannot be converted."""
    if to == "exists":
        return int(value is not None)
    if value is None:
        return None
    try:
        if to == "string":
            return value if isinstance(value, str) else repr(value)
        if to == "double":
            return float(value)
        if to == "int":
            return int(float(value))
        if isinstance(value, str):
            return {"true": 1, "1": 1, "false": 0, "0": 0}.get(value.strip().lower())
        return int(bool(value))
    except (ValueError, OverflowError):
        return None
