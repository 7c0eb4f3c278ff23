"""Published objects: versions by digest, tags, aliases, and references into them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from program.tracing.server.codec import iso
from program.tracing.server.database import Database, known_name
from program.tracing.server.query import BadRequestError, Field, Sql, compile_sort


class NotFoundError(LookupError):
    """Nothing is stored under that name; becomes status 404."""

    def __init__(self, message: str, deleted_at: str | None = None) -> None:
        super().__init__(message)
        self.deleted_at = deleted_at


def create_object(store: Database, db: sqlite3.Connection, obj: Mapping[str, Any]) -> str:
    """Store a version and return its digest; a known one becomes the latest again."""
    from weave.trace.serialization.digest import compute_object_digest_result

    project, object_id = store.name(db, obj["project_id"]), obj["object_id"]
    result = compute_object_digest_result(obj["val"], obj.get("builtin_object_class"))
    touched = _next(db, "touched", project, object_id)
    known = db.execute(
        "UPDATE objects SET touched = ?, deleted_at = NULL, val = ? "
        "WHERE project = ? AND object_id = ? AND digest = ?",
        (touched, result.json_val, project, object_id, result.digest),
    ).rowcount
    if not known:
        db.execute(
            "INSERT INTO objects (project, object_id, digest, version_index, touched, kind, base_class, "
            "leaf_class, val, created_at, wb_user_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                project,
                object_id,
                result.digest,
                _next(db, "version_index", project, object_id),
                touched,
                "op" if _is_op(result.processed_val) else "object",
                result.base_object_class,
                result.leaf_object_class,
                result.json_val,
                time.time_ns() // 1000,
                obj.get("wb_user_id"),
            ),
        )
    return str(result.digest)


def _next(db: sqlite3.Connection, column: str, project: int, object_id: str) -> int:
    sql = f"SELECT coalesce(max({column}) + 1, 0) FROM objects WHERE project = ? AND object_id = ?"
    return int(db.execute(sql, (project, object_id)).fetchone()[0])


def _is_op(val: Any) -> bool:
    kind = val.get("weave_type") if isinstance(val, dict) else None
    return isinstance(kind, dict) and kind.get("type") == "Op"


_ROW = (
    "o.object_id, o.digest, o.version_index, o.kind, o.base_class, o.leaf_class, {val}, o.created_at, "
    "o.deleted_at, o.wb_user_id, o.touched = (SELECT max(touched) FROM objects l "
    "WHERE l.project = o.project AND l.object_id = o.object_id AND l.deleted_at IS NULL)"
)


def _record(project: str, row: Sequence[Any]) -> dict[str, Any]:
    return {
        "project_id": project,
        "object_id": row[0],
        "digest": row[1],
        "version_index": row[2],
        "kind": row[3],
        "base_object_class": row[4],
        "leaf_object_class": row[5],
        "val": json.loads(row[6]) if row[6] is not None else {},
        "created_at": iso(row[7]),
        "deleted_at": iso(row[8]),
        "wb_user_id": row[9],
        "is_latest": int(bool(row[10])),
    }


def read_object(db: sqlite3.Connection, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return one version; ``digest`` may be a digest, ``latest``, ``v3`` or an alias.

    Raises:
        NotFoundError: No such object or version, or it was deleted.
    """
    project, object_id, wanted = request["project_id"], request["object_id"], request["digest"]
    number = known_name(db, project)
    digest = _resolve(db, number, object_id, wanted)
    select = _ROW.format(val="NULL" if request.get("metadata_only") else "o.val")
    row = db.execute(
        f"SELECT {select} FROM objects o WHERE o.project = ? AND o.object_id = ? AND o.digest = ?",
        (number, object_id, digest),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no object `{object_id}` with version {wanted!r}")
    record = _record(project, row)
    if record["deleted_at"]:
        raise NotFoundError(f"object `{object_id}:{wanted}` was deleted", record["deleted_at"])
    if request.get("include_tags_and_aliases"):
        _add_labels(db, number, record)
    return record


def _resolve(db: sqlite3.Connection, project: int, object_id: str, wanted: str) -> str:
    if wanted == "latest":
        sql = (
            "SELECT digest FROM objects WHERE project = ? AND object_id = ? AND deleted_at IS NULL "
            "ORDER BY touched DESC LIMIT 1"
        )
        row = db.execute(sql, (project, object_id)).fetchone()
    elif wanted[:1] == "v" and wanted[1:].isdecimal():
        sql = "SELECT digest FROM objects WHERE project = ? AND object_id = ? AND version_index = ?"
        row = db.execute(sql, (project, object_id, int(wanted[1:]))).fetchone()
    else:
        sql = "SELECT digest FROM aliases WHERE project = ? AND object_id = ? AND alias = ?"
        row = db.execute(sql, (project, object_id, wanted)).fetchone()
    return str(row[0]) if row else wanted


def _add_labels(db: sqlite3.Connection, project: int, record: dict[str, Any]) -> None:
    key = (project, record["object_id"], record["digest"])
    tags = db.execute("SELECT tag FROM tags WHERE project = ? AND object_id = ? AND digest = ?", key)
    aliases = db.execute("SELECT alias FROM aliases WHERE project = ? AND object_id = ? AND digest = ?", key)
    record["tags"] = [tag for (tag,) in tags]
    record["aliases"] = [alias for (alias,) in aliases] + (["latest"] if record["is_latest"] else [])


_CLASS_FILTERS = {
    "base_object_classes": "o.base_class IN",
    "exclude_base_object_classes": "o.base_class IS NULL OR o.base_class NOT IN",
    "leaf_object_classes": "o.leaf_class IN",
    "object_ids": "o.object_id IN",
}


def query_objects(db: sqlite3.Connection, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one page of versions, oldest first unless sorted.

    Raises:
        BadRequestError: An unknown filter or sort field.
    """
    project = request["project_id"]
    number = known_name(db, project)
    where = ["o.project = ?", "o.deleted_at IS NULL"]
    params: list[Any] = [number]
    for name, wanted in (request.get("filter") or {}).items():
        if wanted is None:
            continue
        if name in _CLASS_FILTERS:
            where.append(f"({_CLASS_FILTERS[name]} (SELECT value FROM json_each(?)))")
            params.append(json.dumps(wanted))
        elif name == "is_op":
            where.append("o.kind = ?")
            params.append("op" if wanted else "object")
        elif name == "latest_only":
            where.append(_IS_LATEST if wanted else "1")
        elif name in ("tags", "aliases"):
            table, column = name, "tag" if name == "tags" else "alias"
            match = (
                f"EXISTS (SELECT 1 FROM {table} l WHERE l.project = o.project "
                f"AND l.object_id = o.object_id AND l.digest = o.digest "
                f"AND l.{column} IN (SELECT value FROM json_each(?)))"
            )
            where.append(f"({match} OR {_IS_LATEST})" if "latest" in wanted else match)
            params.append(json.dumps(wanted))
        else:
            raise BadRequestError(f"objects have no filter {name!r:.60}")
    order = ", ".join([*(t.text for t in compile_sort(request.get("sort_by"), _object_field)), "o.seq"])
    select = _ROW.format(val="NULL" if request.get("metadata_only") else "o.val")
    limit = request.get("limit")
    rows = db.execute(
        f"SELECT {select} FROM objects o WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ? OFFSET ?",
        (*params, -1 if limit is None else int(limit), int(request.get("offset") or 0)),
    ).fetchall()
    records = [_record(project, row) for row in rows]
    if request.get("include_tags_and_aliases"):
        for record in records:
            _add_labels(db, number, record)
    return records


_IS_LATEST = (
    "o.touched = (SELECT max(touched) FROM objects l WHERE l.project = o.project "
    "AND l.object_id = o.object_id AND l.deleted_at IS NULL)"
)
_SORTABLE = ("object_id", "digest", "version_index", "created_at", "kind")


def _object_field(path: str) -> Field:
    if path not in _SORTABLE:
        raise BadRequestError(f"objects cannot be sorted by {path!r:.60}")
    return Field(Sql(f"o.{path}"))


def delete_objects(db: sqlite3.Connection, request: Mapping[str, Any]) -> int:
    """Delete versions (without ``digests``: all); what they held is gone, a tombstone stays.

    Raises:
        NotFoundError: Nothing was there to delete.
    """
    number, object_id = known_name(db, request["project_id"]), request["object_id"]
    digests = request.get("digests")
    wanted = None if digests is None else [_resolve(db, number, object_id, digest) for digest in digests]
    condition = "1" if wanted is None else "digest IN (SELECT value FROM json_each(?))"
    params = (number, object_id, *([] if wanted is None else [json.dumps(wanted)]))
    gone = db.execute(
        f"UPDATE objects SET val = NULL, deleted_at = {time.time_ns() // 1000} "
        f"WHERE project = ? AND object_id = ? AND deleted_at IS NULL AND {condition}",
        params,
    ).rowcount
    if not gone:
        raise NotFoundError(f"no object `{object_id}` with such versions")
    for table in ("tags", "aliases"):
        db.execute(f"DELETE FROM {table} WHERE project = ? AND object_id = ? AND {condition}", params)
    return int(gone)


def add_tags(db: sqlite3.Connection, project: str, object_id: str, digest: str, tags: Sequence[str]) -> None:
    """Put tags on one version."""
    number = known_name(db, project)
    digest = _resolve(db, number, object_id, digest)
    rows = [(number, object_id, digest, tag) for tag in tags]
    db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?, ?, ?)", rows)


def remove_tags(
    db: sqlite3.Connection, project: str, object_id: str, digest: str, tags: Sequence[str]
) -> None:
    """Take tags off one version."""
    number = known_name(db, project)
    digest = _resolve(db, number, object_id, digest)
    rows = [(number, object_id, digest, tag) for tag in tags]
    db.executemany("DELETE FROM tags WHERE project = ? AND object_id = ? AND digest = ? AND tag = ?", rows)


def set_aliases(db: sqlite3.Connection, request: Mapping[str, Any], object_id: str) -> None:
    """Point aliases at one version; each leaves the version it pointed at before."""
    number = known_name(db, request["project_id"])
    digest = _resolve(db, number, object_id, request["digest"])
    rows = [(number, object_id, alias, digest) for alias in request["aliases"]]
    db.executemany("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?)", rows)


def remove_aliases(db: sqlite3.Connection, request: Mapping[str, Any], object_id: str) -> None:
    """Remove aliases of an object."""
    number = known_name(db, request["project_id"])
    rows = [(number, object_id, alias) for alias in request["aliases"]]
    db.executemany("DELETE FROM aliases WHERE project = ? AND object_id = ? AND alias = ?", rows)


def labels(db: sqlite3.Connection, project: str, kind: str) -> list[str]:
    """Return all tags (``tag``) or aliases (``alias``) in use, sorted."""
    table = {"tag": "tags", "alias": "aliases"}[kind]
    rows = db.execute(
        f"SELECT DISTINCT {kind} FROM {table} WHERE project = ? ORDER BY 1", (known_name(db, project),)
    )
    return [name for (name,) in rows]


def value_of(db: sqlite3.Connection, ref: str) -> Any:
    """Return what a reference points at, walking into the object; ``None`` where nothing is."""
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
        (known_name(db, f"{entity}/{project}"), row_digest, digest),
    ).fetchone()
    return json.loads(row[0]) if row else None
