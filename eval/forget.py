"""Deletes what run folders hold of a user: the `program.store.erasers.FolderEraser` of this package.

A record may quote any interaction of its user, so all of the user's records go, also if only some
interactions are forgotten. A hash in the folder keeps a resumed run from answering for the user again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from eval.methods.registry import BUILT_IN, METHODS
from eval.records import (
    ANSWERS,
    FORGOTTEN,
    MANIFEST,
    PREPARE,
    QUERIES,
    read_forgotten,
    read_manifest,
    whole_lines,
    write_json,
)
from eval.report_files import delete_report
from eval.run_folder import lock_folder
from program import json_text
from program.errors import DataError, PersonaAgentError
from program.store.tombstones import user_digest

_FILES = (QUERIES, PREPARE, ANSWERS)
_LEVELS = 3


def owns(folder: Path) -> bool:
    """Return whether this is a run folder, a sweep, or a folder of these; also an unfinished one.

    Example:
        >>> owns(Path("somewhere"))
        False
    """
    return any(_runs(folder))


def erase(folder: Path, user_id: str, *, whole: bool) -> int:
    """Delete the user's records and the reports that may show them; return the number of records.

    Records of methods that learn from another user go for all users: that user may be this one. It can be
    interrupted and repeated.

    Raises:
        ConfigError: Another process writes the run.
        DataError: A file is damaged.

    Example:
        >>> from eval import evaluate, read_run
        >>> from eval.demo import SAMPLE
        >>> _ = evaluate(task="LaMP-2M", data=SAMPLE, methods=["user-majority"], out="run")
        >>> user_id = read_run("run").queries[0].user_id
        >>> erase(Path("run"), user_id, whole=True) > 0
        True
        >>> user_id in {query.user_id for query in read_run("run").queries}
        False
    """
    deleted = sum(_erase_run(run, user_id) for run in _runs(folder))
    if any(user_digest(user_id) in read_forgotten(run) for run in _runs(folder)):
        delete_report(folder)
    return deleted


def _runs(folder: Path) -> Iterator[Path]:
    """Yield the run folders in a folder: itself, the runs of a sweep, and those of sweeps in it."""
    folders = [folder]
    for _ in range(_LEVELS):
        for path in folders:
            if any((path / name).is_file() for name in _FILES):
                yield path
        folders = [inner for path in folders for inner in _subfolders(path)]


def _subfolders(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return []


def _erase_run(run: Path, user_id: str) -> int:
    with lock_folder(run):
        forgotten, digest = read_forgotten(run), user_digest(user_id)
        if digest not in forgotten:
            if not any(_is_of(record, user_id) for name in _FILES for _, record in _records(run / name)):
                return 0
            write_json(run / FORGOTTEN, {"users": sorted({*forgotten, digest})})
        delete_report(run)
        labels = _learning_from_others(run)
        return sum(_rewrite(run / name, user_id, labels) for name in _FILES)


def _rewrite(path: Path, user_id: str, labels: Collection[str]) -> int:
    """Write a file again without some records and a half-written last one; return how many there were."""
    if not path.exists():
        return 0
    deleted = 0
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        for line, record in _records(path):
            if _is_of(record, user_id) or record.get("method") in labels:
                deleted += 1
            else:
                file.write(line)
        file.flush()
        os.fsync(file.fileno())
    shutil.copymode(path, part)
    part.replace(path)
    return deleted


def _records(path: Path) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """Yield the whole lines of a file with what they hold."""
    for number, line in whole_lines(path):
        try:
            record = json_text.parse(line)
        except json_text.JsonError as error:
            raise DataError(f"`{path}`, line {number} {error}; delete the run folder") from error
        if not isinstance(record, dict):
            raise DataError(f"`{path}`, line {number} is not a record; delete the run folder")
        yield line, record


def _is_of(record: Mapping[str, Any], user_id: str) -> bool:
    return record.get("user_id") == user_id


def _learning_from_others(run: Path) -> set[str]:
    """Return the labels of the methods that may have learned from another user."""
    if not (run / MANIFEST).exists():  # nobody can tell
        return {str(record["method"]) for _, record in _records(run / PREPARE) if "method" in record}
    labels = set()
    for label, entry in read_manifest(run).methods.items():
        learns = entry.settings.get("persona_of") == "other"
        if entry.name not in BUILT_IN:
            try:
                learns = getattr(METHODS.make(label), "learns_from_other", False)
            except PersonaAgentError:  # a method of the user's own that is gone: nobody can tell
                learns = True
        if learns:
            labels.add(label)
    return labels
