"""Resolves references: ``weave:///ENTITY/PROJECT/object/NAME:DIGEST``, and paths into objects and tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from program.tracing.server.database import name_id
from program.tracing.server.objects import read_object


def value_of(db: sqlite3.Connection, ref: str) -> Any:
    """Return the object, or the part of one, that a reference points at; ``None`` if there is none."""
    try:
        entity, project, kind, name, *extra = ref.removeprefix("weave:///").split("/")
        project_id = f"{entity}/{project}"
        if kind == "table":
            return _walk(db, ref, extra)
        object_id, _, digest = name.rpartition(":")
        request = {"project_id": project_id, "object_id": unquote(object_id), "digest": digest}
        return _walk(db, read_object(db, request)["val"], extra)
    except (ValueError, LookupError, TypeError):
        return None


def _walk(db: sqlite3.Connection, value: Any, extra: Sequence[str]) -> Any:
    for step, key in zip(extra[::2], extra[1::2], strict=True):
        if step == "id":
            value = _row(db, value, unquote(key))
            continue
        if isinstance(value, str) and value.startswith("weave:///"):
            value = value_of(db, value)
        value = value[int(key)] if step == "index" else value[unquote(key)]
    return value


def _row(db: sqlite3.Connection, table_ref: str, row_digest: str) -> Any:
    entity, project, _, digest = table_ref.removeprefix("weave:///").split("/")[:4]
    row = db.execute(
        "SELECT r.val FROM table_rows r JOIN table_members m "
        "ON m.project = r.project AND m.row_digest = r.digest "
        "WHERE r.project = ? AND r.digest = ? AND m.digest = ? LIMIT 1",
        (name_id(db, f"{entity}/{project}"), row_digest, digest),
    ).fetchone()
    return json.loads(row[0]) if row else None
