"""A data set: its users, one at a time, and a manifest that identifies them."""

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
from eval.data.merge import merge_users
from eval.data.read import Reading, read_user
from eval.data.selection import Selection
from eval.files import sha256
from program.errors import DataError
from program.task import Task
from program.text import counted

_Readings = Callable[[], Iterator[Reading]]


@dataclass(frozen=True)
class DataSet:
    """The selected users of one task. Create it with `open_data`.

    Each iteration reads the files again, with one user in memory at a time.

    Attributes:
        manifest: Files with sizes and checksums, counts, selection and defects, as JSON data. It
            holds no user ids and no texts: one hash stands for all user ids.
    """

    task: Task
    manifest: dict[str, Any]
    _readings: _Readings
    _selection: Selection
    _positions: frozenset[int]

    def __iter__(self) -> Iterator[EvalUser]:
        for position, reading in enumerate(self._readings()):
            if position in self._positions:
                yield self._selection.cut(reading.user, reading.repeats)

    def __len__(self) -> int:
        return len(self._positions)


def open_data(
    path: Path | str,
    task: Task,
    *,
    layout: Layout = "auto",
    split: str = "dev",
    selection: Selection | None = None,
) -> DataSet:
    """Open a data set. Reads all files once, for the manifest.

    Args:
        path: A file, or a folder with files of one task.
        task: The task of the files.
        layout: The file layout; ``auto`` detects it.
        split: Which of LaMP's files in a folder to read: ``train``, ``dev`` or ``test``.
        selection: Which users, and how much of each; ``None`` for everything.

    Raises:
        DataError: The path has no data, data of another task, or a damaged file; the message names
            file and field.
        ConfigError: The layout is unknown.

    Example:
        >>> import json
        >>> from program import get_task
        >>> ana = {
        ...     "user_id": "ana",
        ...     "profile": [{"id": "1", "query": "Tea or coffee?", "response": "Mint tea."}],
        ...     "query": [{"id": "2", "input": "And to eat?", "gold": "Lentils."}],
        ... }
        >>> _ = Path("users.json").write_text(json.dumps([ana]))
        >>> data = open_data("users.json", get_task("free-text"))
        >>> data.manifest["layout"], len(data)
        ('oppu', 1)
        >>> [user.history[0].response for user in data]
        ['Mint tea.']
    """
    selection = selection or Selection()
    layout, file = detect(Path(path), layout, split)
    survey, readings, files, source = _read(layout, file, task, selection)
    _check_task(file, task, survey)
    positions = selection.pick([row.length for row in survey.rows])
    rows = [survey.rows[position] for position in positions]
    manifest = {
        "task": task.name,
        "layout": layout,
        "split": split if layout == "lamp" else None,
        "files": [{"name": f.name, "bytes": f.stat().st_size, "sha256": sha256(f)} for f in files],
        "source": source,
        "users_in_files": len(survey.rows),
        # An Arrow file holds cleaned users; the defects were counted when it was written.
        "defects_in_files": source["defects_in_files"] if source else summarise(survey.defects),
        "selection": asdict(selection),
        "users": len(rows),
        "user_ids_sha256": hashlib.sha256("\n".join(row.user_id for row in rows).encode()).hexdigest(),
        "queries": sum(row.queries for row in rows),
        "interactions": sum(row.interactions for row in rows),
        "interactions_without_date": sum(row.undated for row in rows),
    }
    return DataSet(task, manifest, readings, selection, frozenset(positions))


def users(
    path: Path | str,
    task: Task,
    layout: Layout = "auto",
    *,
    split: str = "dev",
    selection: Selection | None = None,
) -> Iterator[EvalUser]:
    """Yield the users of a file or folder. Arguments and errors are those of `open_data`."""
    yield from open_data(path, task, layout=layout, split=split, selection=selection)


def to_datasets(data: DataSet, folder: Path | str) -> Path:
    """Write the selected users as Arrow for Hugging Face `datasets`. `open_data` reads the folder.

    Returns:
        The Arrow file; ``manifest.json`` lies beside it.
    """
    return write_arrow(data, data.manifest, Path(folder))


@dataclass(frozen=True)
class _Row:
    """One user's counts: ``length`` is the whole history, the other counts are of the selected part."""

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
        arrow = ArrowFile(file, task)
        manifest = arrow.manifest()
        return _survey(arrow.readings(), selection), arrow.readings, arrow.files, manifest
    source = raw_source(layout, file, task)
    survey = _survey((read_user(record, task) for record in source.records()), selection)
    counts = Counter(row.user_id for row in survey.rows)

    def readings() -> Iterator[Reading]:
        return (read_user(record, task) for record in merge_users(source.records(), counts))

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


def _check_task(file: Path, task: Task, survey: _Survey) -> None:
    """Raise `DataError` if there are no queries, or most do not look like the task's."""
    if not survey.queries:
        raise DataError(f"`{file}` holds no queries")
    kinds = ("query-unreadable", "query-opening")
    unlike = {defect.position for defect in survey.defects if defect.kind in kinds}
    if 2 * len(unlike) > survey.queries:
        raise DataError(
            f"`{file}`: field `input` does not look like `{task.name}` in {len(unlike)} of "
            f"{counted(survey.queries, 'query', 'queries')}; give the task of these files"
        )
