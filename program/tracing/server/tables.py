"""Stores tables of rows (Weave datasets) and files. Equal rows and equal files are stored once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, cast

from program.tracing.server.codec import dumps
from program.tracing.server.database import Database, name_id
from program.tracing.server.query import Field, all_params, compile_sort, json_at, limit_and_offset
from program.tracing.server.request_errors import BadRequestError, NotFoundError


def create_table(database: Database, db: sqlite3.Connection, table: Mapping[str, Any]) -> dict[str, Any]:
    """Store a table of rows, in order; return the digests of the table and of its rows."""
    project = database.intern_name(db, table["project_id"])
    digests = [_put_row(db, project, row) for row in table["rows"]]
    return {"digest": _put_table(db, project, digests), "row_digests": digests}


def create_table_from_digests(database: Database, db: sqlite3.Connection, request: Mapping[str, Any]) -> str:
    """Store a table of rows that are already stored; return its digest.

    Raises:
        NotFoundError: A row is not stored.
    """
    project, digests = database.intern_name(db, request["project_id"]), request["row_digests"]
    missing = db.execute(
        "SELECT count(*) FROM json_each(?) "
        "WHERE value NOT IN (SELECT digest FROM table_rows WHERE project = ?)",
        (json.dumps(digests), project),
    ).fetchone()[0]
    if missing:
        raise NotFoundError(f"{missing} of {len(digests)} `row_digests` are not stored")
    return _put_table(db, project, digests)


def update_table(database: Database, db: sqlite3.Connection, request: Mapping[str, Any]) -> dict[str, Any]:
    """Store a new table: the one of ``base_digest`` after appends, inserts and pops.

    Raises:
        BadRequestError: An update is unknown, or its index is outside the table.
    """
    project = database.intern_name(db, request["project_id"])
    digests = [
        digest
        for (digest,) in db.execute(
            "SELECT row_digest FROM table_members WHERE project = ? AND digest = ? ORDER BY position",
            (project, request["base_digest"]),
        )
    ]
    updated = []
    for update in request["updates"]:
        kind, spec = next(iter({k: v for k, v in update.items() if v is not None}.items()))
        if kind not in ("append", "insert", "pop"):
            raise BadRequestError(f"unknown table update {kind!r:.60}")
        index = int(spec.get("index", len(digests)))
        if not 0 <= index <= len(digests) - (kind == "pop"):
            raise BadRequestError(f"`index` {index} is outside the table of {len(digests)} rows")
        if kind == "pop":
            updated.append(digests.pop(index))
        else:
            digests.insert(index, _put_row(db, project, spec["row"]))
            updated.append(digests[index])
    return {"digest": _put_table(db, project, digests), "updated_row_digests": updated}


def _put_row(db: sqlite3.Connection, project: int, row: Any) -> str:
    from weave.trace.serialization.digest import compute_row_digest

    digest = str(compute_row_digest(row))
    db.execute("INSERT OR IGNORE INTO table_rows VALUES (?, ?, ?)", (project, digest, dumps(row)))
    return digest


def _put_table(db: sqlite3.Connection, project: int, digests: Sequence[str]) -> str:
    from weave.trace.serialization.digest import compute_table_digest

    digest = str(compute_table_digest(list(digests)))
    db.execute("INSERT OR IGNORE INTO tables VALUES (?, ?, ?)", (project, digest, len(digests)))
    members = [(project, digest, position, row) for position, row in enumerate(digests)]
    db.executemany("INSERT OR IGNORE INTO table_members VALUES (?, ?, ?, ?)", members)
    return digest


def _row_field(path: str) -> Field:
    return Field(json_at("r.val", path.split(".")))


def query_table(db: sqlite3.Connection, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one page of rows, in the table's order unless sorted.

    Raises:
        NotFoundError: There is no such table.
    """
    project, digest = name_id(db, request["project_id"]), request["digest"]
    count_rows(db, request)
    params: list[Any] = [project, digest]
    row_digests = (request.get("filter") or {}).get("row_digests")
    row_filter = ""
    if row_digests is not None:
        row_filter = "AND m.row_digest IN (SELECT value FROM json_each(?))"
        params.append(json.dumps(row_digests))
    order = compile_sort(request.get("sort_by"), _row_field)
    terms = ", ".join([*(term.text for term in order), "m.position"])
    params += [*all_params(order), *limit_and_offset(request)]
    rows = db.execute(
        "SELECT r.digest, r.val, m.position FROM table_members m "
        "JOIN table_rows r ON r.project = m.project AND r.digest = m.row_digest "
        f"WHERE m.project = ? AND m.digest = ? {row_filter} ORDER BY {terms} LIMIT ? OFFSET ?",
        params,
    )
    return [{"digest": d, "val": json.loads(val), "original_index": n} for d, val, n in rows]


def count_rows(db: sqlite3.Connection, request: Mapping[str, Any]) -> int:
    """Return the number of rows of a table.

    Raises:
        NotFoundError: There is no such table.
    """
    row = db.execute(
        "SELECT rows FROM tables WHERE project = ? AND digest = ?",
        (name_id(db, request["project_id"]), request["digest"]),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no table {request['digest']!r:.80}")
    return int(row[0])


def create_file(database: Database, db: sqlite3.Connection, content_type: str, body: bytes) -> str:
    """Store the file in a multipart form and return its digest.

    Raises:
        BadRequestError: The form has no ``project_id`` or no ``file``.
    """
    from weave.trace.serialization.digest import compute_file_digest

    form = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = {str(part.get_param("name", header="content-disposition")): part for part in form.iter_parts()}
    if not {"project_id", "file"} <= set(parts):
        raise BadRequestError("`/file/create` needs a multipart form with `project_id` and `file`")
    values = {name: part.get_payload(decode=True) for name, part in parts.items()}
    content, project_id = cast(bytes, values["file"]), cast(bytes, values["project_id"]).decode().strip()
    digest = str(compute_file_digest(content))
    db.execute(
        "INSERT OR IGNORE INTO files VALUES (?, ?, ?)",
        (database.intern_name(db, project_id), digest, content),
    )
    return digest


def read_file(db: sqlite3.Connection, request: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file.

    Raises:
        NotFoundError: There is no such file.
    """
    row = db.execute(
        "SELECT content FROM files WHERE project = ? AND digest = ?",
        (name_id(db, request["project_id"]), request["digest"]),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no file {request['digest']!r:.80}")
    return bytes(row[0])
