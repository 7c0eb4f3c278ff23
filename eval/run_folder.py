"""Writes a run folder: each finished attempt is on disk at once, so a killed process loses none."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from eval.manifest import check_resumable
from eval.records import (
    ANSWERS,
    MANIFEST,
    PREPARE,
    QUERIES,
    AnswerRecord,
    Manifest,
    PrepareRecord,
    QueryRecord,
    read_manifest,
    read_run,
    to_line,
    write_json,
)
from program.errors import ConfigError
from program.usage import Usage

_LOCK = "run.lock"
_BLOCK = 1 << 16


class RunFolder:
    """A run folder that one process writes. Thread-safe; a context manager.

    Opening an existing folder resumes its run. The manifest must be the same, but may have more methods.

    Args:
        path: The folder; created if it does not exist.
        manifest: The manifest of the run.
        queries: The queries of the run; written only if the folder is new.

    Attributes:
        spent: The usage of all stored attempts when the folder was opened.

    Raises:
        ConfigError: The folder belongs to another run (names the setting), another process writes
            it, or it has other files and no manifest.
        DataError: The folder is damaged.
    """

    def __init__(self, path: Path, manifest: Manifest, queries: Iterable[QueryRecord]) -> None:
        self._path = path
        self._write_lock = threading.Lock()
        self._answered: set[tuple[str, str, str]] = set()
        self._learned: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.spent = Usage()
        self._lock_file = lock_folder(path)
        try:
            if (path / MANIFEST).exists():
                self._resume(manifest)
            else:
                self._create(manifest, queries)
            self._files: dict[type, IO[str]] = {
                PrepareRecord: _open_to_append(path / PREPARE),
                AnswerRecord: _open_to_append(path / ANSWERS),
            }
        except BaseException:  # an interrupt, too, must release the lock
            self._lock_file.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and release the lock."""
        for file in self._files.values():
            file.close()
        self._lock_file.close()

    def has_answer(self, method: str, user_id: str, query_id: str) -> bool:
        """Return whether the method has answered the query."""
        return (method, user_id, query_id) in self._answered

    def count_answers(self) -> Counter[str]:
        """Return the number of answered queries of each method."""
        return Counter(method for method, _, _ in self._answered)

    def learned(self, method: str, user_id: str) -> Mapping[str, Any] | None:
        """Return the stored result of ``prepare`` when the folder was opened; ``None`` if it has none."""
        return self._learned.get((method, user_id))

    def append(self, record: PrepareRecord | AnswerRecord) -> None:
        """Write one attempt and flush it to the operating system."""
        line = to_line(record)
        with self._write_lock:
            file = self._files[type(record)]
            file.write(line)
            file.flush()
            if isinstance(record, AnswerRecord) and record.failed is None:
                self._answered.add((record.method, record.user_id, record.query_id))

    def _create(self, manifest: Manifest, queries: Iterable[QueryRecord]) -> None:
        # A process killed before it wrote the manifest leaves these, and `.part` files.
        names = {entry.name for entry in self._path.iterdir()} - {_LOCK, QUERIES}
        if any(not name.endswith(".part") for name in names):
            raise ConfigError(
                f"`{self._path}` is not empty and not a run folder; give `--out` a new or empty folder"
            )
        with (self._path / QUERIES).open("w", encoding="utf-8") as file:
            file.writelines(map(to_line, queries))
        # The manifest is written last: it marks the folder as one that can be resumed.
        write_json(self._path / MANIFEST, manifest)

    def _resume(self, manifest: Manifest) -> None:
        stored = read_manifest(self._path)
        check_resumable(stored, manifest, self._path)
        if manifest.methods.keys() - stored.methods.keys():
            write_json(self._path / MANIFEST, replace(stored, methods={**stored.methods, **manifest.methods}))
        run = read_run(self._path)
        self.spent = run.spent()
        self._answered = {key for key, record in run.answers.items() if record.failed is None}
        self._learned = {
            key: record.learned for key, record in run.prepared.items() if record.learned is not None
        }


def _open_to_append(path: Path) -> IO[str]:
    """Open a file of lines for appending, after cutting off a half-written last line."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)
    return path.open("a", encoding="utf-8")


def lock_folder(path: Path) -> IO[str]:
    """Create a run folder and lock it for other processes until the returned file is closed.

    Raises:
        ConfigError: Another process has locked it, or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (path / _LOCK).open("w")
    except OSError as error:
        raise ConfigError(f"cannot write to `--out` `{path}`: {error.strerror}") from error
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ConfigError(f"another process is writing `{path}`; wait for it or stop it first") from error
    return file
