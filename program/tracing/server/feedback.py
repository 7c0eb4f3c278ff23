"""Stores feedback on calls and objects: scores, notes, reactions."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from program.tracing.server.codec import dumps, iso
from program.tracing.server.database import Database, name_id
from program.tracing.server.query import (
    Field,
    Sql,
    all_params,
    compile_sort,
    json_at,
    limit_and_offset,
    project_condition,
)
from program.tracing.server.request_errors import BadRequestError


def create_feedback(database: Database, db: sqlite3.Connection, request: Mapping[str, Any]) -> dict[str, Any]:
    """Store one feedback under the client's ``id``, or a new one. Repeating it changes nothing."""
    feedback_id = request.get("id") or str(uuid.uuid4())
    created = time.time_ns() // 1000
    body = {key: value for key, value in request.items() if value is not None}
    body |= {"id": feedback_id, "created_at": iso(created)}
    ref = str(request["weave_ref"])
    call_id = ref.rsplit("/call/", 1)[1].split("/", 1)[0] if "/call/" in ref else None
    db.execute(
        "INSERT OR IGNORE INTO feedback (project, id, weave_ref, call_id, feedback_type, creator, "
        "created_at, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            database.intern_name(db, request["project_id"]),
            feedback_id,
            ref,
            call_id,
            request["feedback_type"],
            request.get("creator"),
            created,
            dumps(body),
        ),
    )
    return {
        "id": feedback_id,
        "created_at": iso(created),
        "payload": request.get("payload") or {},
        "wb_user_id": request.get("wb_user_id") or "",
    }


def _feedback_field(path: str) -> Field:
    if path in ("id", "weave_ref", "feedback_type", "creator"):
        return Field(Sql(f"t.{path}"))
    if path == "created_at":
        return Field(Sql("t.created_at"), "time")
    return Field(json_at("t.body", path.split(".")))


def query_feedback(db: sqlite3.Connection, request: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return one page of feedback, and the number of all matches."""
    where = _where(db, request)
    order = compile_sort(request.get("sort_by"), _feedback_field)
    terms = ", ".join([*(term.text for term in order), "t.seq"])
    rows = db.execute(
        f"SELECT body FROM feedback t WHERE {where.text} ORDER BY {terms} LIMIT ? OFFSET ?",
        (*where.params, *all_params(order), *limit_and_offset(request)),
    ).fetchall()
    total = db.execute(f"SELECT count(*) FROM feedback t WHERE {where.text}", where.params).fetchone()[0]
    return [json.loads(body) for (body,) in rows], int(total)


def purge_feedback(db: sqlite3.Connection, request: Mapping[str, Any]) -> None:
    """Delete the feedback that matches the query.

    Raises:
        BadRequestError: There is no query.
    """
    if not request.get("query"):
        raise BadRequestError("`query` is required to purge feedback")
    where = _where(db, request)
    db.execute(f"DELETE FROM feedback AS t WHERE {where.text}", where.params)


def feedback_of_calls(
    db: sqlite3.Connection, project: str, call_ids: Collection[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the feedback of each call, by call id, oldest first."""
    by_call: dict[str, list[dict[str, Any]]] = {}
    rows = db.execute(
        "SELECT call_id, body FROM feedback WHERE project = ? "
        "AND call_id IN (SELECT value FROM json_each(?)) ORDER BY seq",
        (name_id(db, project), json.dumps(list(call_ids))),
    )
    for call_id, body in rows:
        by_call.setdefault(call_id, []).append(json.loads(body))
    return by_call


def _where(db: sqlite3.Connection, request: Mapping[str, Any]) -> Sql:
    return project_condition(name_id(db, request["project_id"]), request, _feedback_field)
