"""Stores published objects: versions by digest, with tags and aliases."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from program.tracing.server.codec import iso
from program.tracing.server.database import Database, name_id
from program.tracing.server.query import Field, Sql, compile_sort, limit_and_offset
from program.tracing.server.request_errors import BadRequestError, NotFoundError


def create_object(database: Database, db: sqlite3.Connection, obj: Mapping[str, Any]) -> str:
    """Store a version and return its digest; a version stored before becomes the latest again."""
    from weave.trace.serialization.digest import compute_object_digest_result

    project, object_id = database.intern_name(db, obj["project_id"]), obj["object_id"]
    result = compute_object_digest_result(obj["val"], obj.get("builtin_object_class"))
    touched = _next(db, "touched", project, object_id)
    updated = db.execute(
        "UPDATE objects SET touched = ?, deleted_at = NULL, val = ? "
        "WHERE project = ? AND object_id = ? AND digest = ?",
        (touched, result.json_val, project, object_id, result.digest),
    ).rowcount
    if not updated:
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
        NotFoundError: There is no such object or version, or it was deleted.
    """
    project, object_id, version = request["project_id"], request["object_id"], request["digest"]
    number = name_id(db, project)
    digest = _resolve(db, number, object_id, version)
    select = _ROW.format(val="NULL" if request.get("metadata_only") else "o.val")
    row = db.execute(
        f"SELECT {select} FROM objects o WHERE o.project = ? AND o.object_id = ? AND o.digest = ?",
        (number, object_id, digest),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no object `{object_id}` with version {version!r}")
    record = _record(project, row)
    if record["deleted_at"]:
        raise NotFoundError(f"object `{object_id}:{version}` was deleted", record["deleted_at"])
    if request.get("include_tags_and_aliases"):
        _add_labels(db, number, record)
    return record


def _resolve(db: sqlite3.Connection, project: int, object_id: str, version: str) -> str:
    """Return the digest of a version."""
    if version == "latest":
        sql = (
            "SELECT digest FROM objects WHERE project = ? AND object_id = ? AND deleted_at IS NULL "
            "ORDER BY touched DESC LIMIT 1"
        )
        row = db.execute(sql, (project, object_id)).fetchone()
    elif version[:1] == "v" and version[1:].isdecimal():
        sql = "SELECT digest FROM objects WHERE project = ? AND object_id = ? AND version_index = ?"
        row = db.execute(sql, (project, object_id, int(version[1:]))).fetchone()
    else:
        sql = "SELECT digest FROM aliases WHERE project = ? AND object_id = ? AND alias = ?"
        row = db.execute(sql, (project, object_id, version)).fetchone()
    return str(row[0]) if row else version


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
        BadRequestError: A filter or sort field is unknown.
    """
    project = request["project_id"]
    number = name_id(db, project)
    where = ["o.project = ?", "o.deleted_at IS NULL"]
    params: list[Any] = [number]
    for name, value in (request.get("filter") or {}).items():
        if value is None:
            continue
        if name in _CLASS_FILTERS:
            where.append(f"({_CLASS_FILTERS[name]} (SELECT value FROM json_each(?)))")
            params.append(json.dumps(value))
        elif name == "is_op":
            where.append("o.kind = ?")
            params.append("op" if value else "object")
        elif name == "latest_only":
            where.append(_IS_LATEST if value else "1")
        elif name in ("tags", "aliases"):
            table, column = name, "tag" if name == "tags" else "alias"
            match = (
                f"EXISTS (SELECT 1 FROM {table} l WHERE l.project = o.project "
                f"AND l.object_id = o.object_id AND l.digest = o.digest "
                f"AND l.{column} IN (SELECT value FROM json_each(?)))"
            )
            where.append(f"({match} OR {_IS_LATEST})" if "latest" in value else match)
            params.append(json.dumps(value))
        else:
            raise BadRequestError(f"objects have no filter {name!r:.60}")
    order = ", ".join([*(t.text for t in compile_sort(request.get("sort_by"), _object_field)), "o.seq"])
    select = _ROW.format(val="NULL" if request.get("metadata_only") else "o.val")
    rows = db.execute(
        f"SELECT {select} FROM objects o WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ? OFFSET ?",
        (*params, *limit_and_offset(request)),
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
    """Delete versions, or all of them without ``digests``; return how many.

    The content is deleted; the row stays, so that a reader learns when it was deleted.

    Raises:
        NotFoundError: No such version is stored.
    """
    number, object_id = name_id(db, request["project_id"]), request["object_id"]
    digests = request.get("digests")
    condition, params = "1", [number, object_id]
    if digests is not None:
        condition = "digest IN (SELECT value FROM json_each(?))"
        params.append(json.dumps([_resolve(db, number, object_id, digest) for digest in digests]))
    deleted = db.execute(
        f"UPDATE objects SET val = NULL, deleted_at = {time.time_ns() // 1000} "
        f"WHERE project = ? AND object_id = ? AND deleted_at IS NULL AND {condition}",
        params,
    ).rowcount
    if not deleted:
        raise NotFoundError(f"no object `{object_id}` with such versions")
    for table in ("tags", "aliases"):
        db.execute(f"DELETE FROM {table} WHERE project = ? AND object_id = ? AND {condition}", params)
    return int(deleted)


def add_tags(db: sqlite3.Connection, project: str, object_id: str, digest: str, tags: Sequence[str]) -> None:
    """Add tags to one version."""
    number = name_id(db, project)
    digest = _resolve(db, number, object_id, digest)
    rows = [(number, object_id, digest, tag) for tag in tags]
    db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?, ?, ?)", rows)


def remove_tags(
    db: sqlite3.Connection, project: str, object_id: str, digest: str, tags: Sequence[str]
) -> None:
    """Remove tags from one version."""
    number = name_id(db, project)
    digest = _resolve(db, number, object_id, digest)
    rows = [(number, object_id, digest, tag) for tag in tags]
    db.executemany("DELETE FROM tags WHERE project = ? AND object_id = ? AND digest = ? AND tag = ?", rows)


def set_aliases(db: sqlite3.Connection, request: Mapping[str, Any], object_id: str) -> None:
    """Point aliases at one version; an alias points at one version only."""
    number = name_id(db, request["project_id"])
    digest = _resolve(db, number, object_id, request["digest"])
    rows = [(number, object_id, alias, digest) for alias in request["aliases"]]
    db.executemany("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?)", rows)


def remove_aliases(db: sqlite3.Connection, request: Mapping[str, Any], object_id: str) -> None:
    """Remove aliases from an object."""
    number = name_id(db, request["project_id"])
    rows = [(number, object_id, alias) for alias in request["aliases"]]
    db.executemany("DELETE FROM aliases WHERE project = ? AND object_id = ? AND alias = ?", rows)


def labels(db: sqlite3.Connection, project: str, kind: str) -> list[str]:
    """Return all tags (``tag``) or aliases (``alias``) in use, sorted."""
    table = {"tag": "tags", "alias": "aliases"}[kind]
    rows = db.execute(
        f"SELECT DISTINCT {kind} FROM {table} WHERE project = ? ORDER BY 1", (name_id(db, project),)
    )
    return [name for (name,) in rows]
