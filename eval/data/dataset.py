"""A data set: users one at a time, and a manifest that says exactly what they are."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.contracts import EvalUser
from eval.data.arrow import ArrowFile, write_arrow
from eval.data.defects import Defect, summarise
from eval.data.layout import Layout, detect, raw_source
from eval.data.merge import merged
from eval.data.read import Reading, read_user
from eval.data.selection import Selection
from eval.files import sha256
from program.errors import DataError
from program.task import Task

_Readings = Callable[[], Iterator[Reading]]


@dataclass(frozen=True)
class DataSet:
    """Users of one task. Iterating reads the files again; one user is in memory at a time.

    Attributes:
        manifest: Files with sizes and checksums, counts, selection, defects: plain data for JSON,
            without user ids and texts (the users are named by one hash).
    """

    task: Task
    manifest: dict[str, Any]
    _readings: _Readings
    _selection: Selection
    _picked: frozenset[int]

    def __iter__(self) -> Iterator[EvalUser]:
        for position, reading in enumerate(self._readings()):
            if position in self._picked:
                yield self._selection.cut(reading.user, reading.repeats)

    def __len__(self) -> int:
        return len(self._picked)


def open_data(
    path: Path | str,
    task: Task,
    *,
    layout: Layout = "auto",
    split: str = "dev",
    selection: Selection | None = None,
) -> DataSet:
    """Read the files once for their manifest and return the data set.

    ``path`` is a file, or a folder with files of one task; ``split`` says which of LaMP's files in
    a folder are meant: ``train``, ``dev`` or ``test``.

    Raises:
        DataError: No data there, data of another task, or a damaged file; names file and field.
        ConfigError: An unknown layout.
    """
    selection = selection or Selection()
    found, file = detect(Path(path), layout, split)
    survey, readings, files, source = _read(found, file, task, selection)
    _check(file, task, survey)
    picked = selection.pick([row.length for row in survey.rows])
    rows = [survey.rows[position] for position in picked]
    manifest = {
        "task": task.name,
        "layout": found,
        "split": split if found == "lamp" else None,
        "files": [{"name": f.name, "bytes": f.stat().st_size, "sha256": sha256(f)} for f in files],
        "source": source,
        "users_in_files": len(survey.rows),
        # Arrow holds what the loaders made of the files: their defects were found when it was written.
        "defects_in_files": source["defects_in_files"] if source else summarise(survey.defects),
        "selection": asdict(selection),
        "users": len(rows),
        "user_ids_sha256": hashlib.sha256("\n".join(row.user_id for row in rows).encode()).hexdigest(),
        "queries": sum(row.queries for row in rows),
        "interactions": sum(row.interactions for row in rows),
        "interactions_without_date": sum(row.undated for row in rows),
    }
    return DataSet(task, manifest, readings, selection, frozenset(picked))


def users(
    path: Path | str,
    task: Task,
    layout: Layout = "auto",
    *,
    split: str = "dev",
    selection: Selection | None = None,
) -> Iterator[EvalUser]:
    """Yield the users of a file or folder; arguments and errors as `open_data`."""
    yield from open_data(path, task, layout=layout, split=split, selection=selection)


def to_datasets(data: DataSet, folder: Path | str) -> Path:
    """Write the selected users as Arrow for Hugging Face `datasets`; `open_data` reads the folder back.

    Returns:
        The Arrow file; ``manifest.json`` lies beside it.
    """
    return write_arrow(data, data.manifest, Path(folder))


@dataclass(frozen=True)
class _Row:
    """What the manifest needs of one user; ``length`` is the whole history, the rest the selected part."""

    user_id: str
    length: int
    interactions: int
    undated: int
    queries: int


@dataclass
class _Survey:
    rows: list[_Row] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    queries: int = 0


def _read(
    layout: Layout, file: Path, task: Task, selection: Selection
) -> tuple[_Survey, _Readings, tuple[Path, ...], dict[str, Any] | None]:
    if layout == "arrow":
        stored = ArrowFile(file, task)
        manifest = stored.manifest()
        return _survey(stored.readings(), selection), stored.readings, stored.files, manifest
    source = raw_source(layout, file, task)
    survey = _survey((read_user(raw, task) for raw in source.records()), selection)
    counts = Counter(row.user_id for row in survey.rows)

    def readings() -> Iterator[Reading]:
        return (read_user(raw, task) for raw in merged(source.records(), counts))

    if len(counts) < len(survey.rows):
        survey = _survey(readings(), selection)
    return survey, readings, source.files, None


def _survey(readings: Iterator[Reading], selection: Selection) -> _Survey:
    survey = _Survey()
    for reading in readings:
        user = selection.cut(reading.user, reading.repeats)
        survey.rows.append(
            _Row(
                user_id=user.user_id,
                length=len(reading.user.history),
                interactions=len(user.history),
                undated=sum(interaction.timestamp is None for interaction in user.history),
                queries=len(user.queries),
            )
        )
        survey.defects.extend(reading.defects)
        survey.queries += len(reading.user.queries)
    return survey


def _check(file: Path, task: Task, survey: _Survey) -> None:
    if not survey.queries:
        raise DataError(f"`{file}` holds no queries")
    strange = {d.where for d in survey.defects if d.kind in ("query-unreadable", "query-opening")}
    if 2 * len(strange) > survey.queries:
        raise DataError(
            f"`{file}`: field `input` does not read like `{task.name}` in {len(strange)} of {survey.queries} "
            "queries; give the task of these files"
        )
