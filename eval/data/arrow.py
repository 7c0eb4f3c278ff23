"""Writes and reads users as one Arrow file, one row for each user.

`datasets.Dataset.from_file("FOLDER/users.arrow")` opens it without this package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eval.contracts import EvalUser, Query
from eval.data.defects import check_summary
from eval.data.layout import ARROW_FILE
from eval.data.read import Reading, find_repeats
from eval.files import explain_write_errors
from program import json_text
from program.errors import DataError
from program.json_text import parse
from program.memory.interaction import Interaction
from program.task import Task
from program.values import kind

_MANIFEST = "manifest.json"


def write_arrow(users: Iterable[EvalUser], manifest: Mapping[str, Any], folder: Path) -> Path:
    """Write users and their manifest, and return the Arrow file. One user is in memory at a time.

    An existing file is replaced when the new one is complete.

    Raises:
        DataError: The folder cannot be created, or has a manifest of something else, such as a run.
    """
    import pyarrow as pa

    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    partial, file = folder / f"{ARROW_FILE}.part", folder / ARROW_FILE
    if (folder / _MANIFEST).exists() and not (file.exists() or partial.exists()):
        raise DataError(f"`{folder}` holds something else already; give another folder")
    schema = _schema()
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for user in users:
            writer.write_batch(pa.RecordBatch.from_pylist([_to_row(user)], schema=schema))
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return partial.replace(file)


@dataclass(frozen=True)
class ArrowFile:
    """A file from `write_arrow`."""

    file: Path
    task: Task

    @property
    def files(self) -> tuple[Path, ...]:
        """The Arrow file."""
        return (self.file,)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest beside the file.

        Raises:
            DataError: The manifest is missing or damaged, or belongs to another task.
        """
        path = self.file.with_name(_MANIFEST)
        try:
            manifest: Any = json_text.read(path)
        except DataError as error:
            raise DataError(
                f"cannot read `{path}`, the manifest of `{self.file.name}`; write the data set again"
            ) from error
        if not isinstance(manifest, dict):
            raise DataError(f"`{path}` must hold an object, not {kind(manifest)}; write the data set again")
        check_summary(manifest.setdefault("defects_in_files", []), f"`{path}`")
        if manifest.get("task") != self.task.name:
            raise DataError(f"`{path}`: field `task` is {manifest.get('task')!r}, not {self.task.name!r}")
        return manifest

    def readings(self) -> Iterator[Reading]:
        """Yield the users, memory-mapped.

        Raises:
            DataError: The file is damaged.
        """
        from datasets import Dataset
        from pyarrow import ArrowException

        damage = (ArrowException, OSError, LookupError, TypeError, ValueError, OverflowError)
        try:
            rows = Dataset.from_file(str(self.file))
            # Offsets and bytes of a damaged file point anywhere: check all of them before any is followed.
            rows.data.table.validate(full=True)
        except damage as error:
            raise DataError(
                f"`{self.file}` is damaged ({type(error).__name__}); write the data set again"
            ) from error
        if rows.data.table.schema.names != _schema().names:
            raise DataError(f"`{self.file}` has other columns than a data set; write the data set again")
        for number in range(len(rows)):
            try:
                user = _to_user(rows[number])
            except damage as error:
                raise DataError(
                    f"`{self.file}`, row {number} is damaged ({type(error).__name__}); "
                    "write the data set again"
                ) from error
            yield Reading(user, find_repeats(user, self.task))


def _schema() -> Any:
    import pyarrow as pa

    time, text = pa.timestamp("us", tz="UTC"), pa.string()
    interaction = {"id": text, "query": text, "response": text, "timestamp": time, "metadata": text}
    query = {"id": text, "text": text, "gold": text, "timestamp": time, "metadata": text}
    return pa.schema(
        {
            "user_id": text,
            "history": pa.list_(pa.struct(interaction)),
            "queries": pa.list_(pa.struct(query)),
        }
    )


def _to_row(user: EvalUser) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "history": [_to_struct(interaction) for interaction in user.history],
        "queries": [_to_struct(query) for query in user.queries],
    }


def _to_struct(record: Interaction | Query) -> dict[str, Any]:
    return {**vars(record), "metadata": json.dumps(dict(record.metadata), ensure_ascii=False)}


def _to_user(row: Mapping[str, Any]) -> EvalUser:
    """Return the user of a row; raises `TypeError` and others if it is damaged."""
    user_id = _text(row["user_id"])
    return EvalUser(
        user_id=user_id,
        history=tuple(Interaction(user_id=user_id, **_to_fields(struct)) for struct in row["history"]),
        queries=tuple(Query(user_id=user_id, **_to_fields(struct)) for struct in row["queries"]),
    )


def _to_fields(struct: Mapping[str, Any]) -> dict[str, Any]:
    time: datetime | None = struct["timestamp"]
    metadata = parse(_text(struct["metadata"]).encode())
    texts = {name: _text(value) for name, value in struct.items() if name not in ("timestamp", "gold")}
    return {
        **struct,
        **texts,
        "timestamp": time and time.astimezone(timezone.utc),
        "metadata": {name: _text(value) for name, value in metadata.items()},
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value
