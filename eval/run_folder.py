"""Writing a run folder: every attempt is on disk as soon as it is finished, and none is lost by a kill."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from eval.manifest import check_same
from eval.records import (
    ANSWERS,
    MANIFEST,
    PREPARE,
    QUERIES,
    AnswerRecord,
    Manifest,
    PrepareRecord,
    QueryRecord,
    line_of,
    read_manifest,
    read_run,
    write_json,
)
from program.errors import ConfigError
from program.usage import Usage

_LOCK = "run.lock"
_BLOCK = 1 << 16


class RunFolder:
    """A run folder that one process writes. Safe to share between threads; a context manager.

    A folder that is there is continued: its queries must be the same, and its manifest may differ
    by further methods only.

    Attributes:
        spent: What everything in the folder had cost when it was opened.

    Raises:
        ConfigError: The folder belongs to another run (names the setting), another process writes
            it, or it is no run folder and not empty.
        DataError: The folder is damaged.
    """

    def __init__(self, path: Path, manifest: Manifest, queries: Iterable[QueryRecord]) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._answered: set[tuple[str, str, str]] = set()
        self._learned: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.spent = Usage()
        self._lock = _lock(path)
        try:
            if (path / MANIFEST).exists():
                self._continue(manifest)
            else:
                self._begin(manifest, queries)
            self._files: dict[type, IO[str]] = {
                PrepareRecord: _open_to_append(path / PREPARE),
                AnswerRecord: _open_to_append(path / ANSWERS),
            }
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and let another process continue."""
        for file in self._files.values():
            file.close()
        self._lock.close()

    def answered(self, method: str, user_id: str, query_id: str) -> bool:
        """Return whether there is an answer, given in an earlier run or in this one."""
        return (method, user_id, query_id) in self._answered

    def answers(self) -> Counter[str]:
        """Return the number of answers of each method."""
        return Counter(method for method, _, _ in self._answered)

    def learned(self, method: str, user_id: str) -> Mapping[str, Any] | None:
        """Return what an earlier run has learned about a user; ``None`` where it has not."""
        return self._learned.get((method, user_id))

    def append(self, record: PrepareRecord | AnswerRecord) -> None:
        """Write one attempt; when this returns, the operating system has it."""
        line = line_of(record)
        with self._writing:
            file = self._files[type(record)]
            file.write(line)
            file.flush()
            if isinstance(record, AnswerRecord) and record.failed is None:
                self._answered.add((record.method, record.user_id, record.query_id))

    def _begin(self, manifest: Manifest, queries: Iterable[QueryRecord]) -> None:
        strangers = [entry.name for entry in self._path.iterdir() if entry.name not in (_LOCK, QUERIES)]
        if any(not name.endswith(".part") for name in strangers):
            raise ConfigError(
                f"`{self._path}` is not empty and no run folder; give `--out` a new or empty folder"
            )
        with (self._path / QUERIES).open("w", encoding="utf-8") as file:
            file.writelines(map(line_of, queries))
        # Written last: with a manifest the folder is complete and can be continued.
        write_json(self._path / MANIFEST, manifest)

    def _continue(self, manifest: Manifest) -> None:
        before = read_manifest(self._path)
        check_same(before, manifest, self._path)
        if manifest.methods.keys() - before.methods.keys():
            write_json(self._path / MANIFEST, replace(before, methods={**before.methods, **manifest.methods}))
        run = read_run(self._path)
        self.spent = run.spent()
        self._answered = {key for key, record in run.answers.items() if record.failed is None}
        self._learned = {
            key: record.learned for key, record in run.prepared.items() if record.learned is not None
        }


def _open_to_append(path: Path) -> IO[str]:
    """Open a file of lines to add to; half a line, left by a killed process, is cut off."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            cut = file.read(end - start).rfind(b"\n")
            if cut >= 0:
                end = start + cut + 1
                break
            end = start
        file.truncate(end)
    return path.open("a", encoding="utf-8")


def _lock(path: Path) -> IO[str]:
    """Make the folder and keep other processes out of it until the file returned is closed."""
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
