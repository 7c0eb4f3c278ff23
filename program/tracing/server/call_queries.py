"""Reads calls in pages, and counts them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from program.tracing.server.call_fields import OP, STATUS, TRACE_NAME, call_conditions, call_field
from program.tracing.server.codec import dumps, iso, loads, loads_mapping, unpack
from program.tracing.server.database import fetch_blob, name_id
from program.tracing.server.feedback import feedback_of_calls
from program.tracing.server.prices import cost_of
from program.tracing.server.query import all_params, compile_sort, limit_and_offset
from program.tracing.server.references import value_of

# The columns of a row, in the order in which `_call` reads them.
_COLUMNS = (
    f"c.seq, c.id, c.trace_id, c.parent_id, {OP}, c.display_name, c.thread_id, c.turn_id, c.started_at, "
    "c.ended_at, c.wb_user_id, c.wb_run_id, c.wb_run_step, c.wb_run_step_end, c.summary, "
    f"{STATUS}, {TRACE_NAME}"
)
_PAYLOADS = ("attributes", "inputs", "output", "exception")


def query_calls(db: sqlite3.Connection, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one page of calls as Weave's wire records, in a stable order.

    Args:
        db: A connection for reading.
        request: A body of ``/calls/stream_query``. Without ``limit``: all calls.

    Raises:
        BadRequestError: A filter, operator, field or direction is unknown.
        KeyError: ``project_id`` is missing.
    """
    project = request["project_id"]
    where = call_conditions(db, project, request.get("filter"), request.get("query"))
    order = compile_sort(request.get("sort_by"), call_field)
    terms = ", ".join([term.text for term in order] or ["c.started_at"])
    order_params = all_params(order)
    columns = request.get("columns")
    payloads = "".join(
        f", plain(p.{name})" if columns is None or _includes(columns, name) else ", NULL"
        for name in _PAYLOADS
    )
    size = f", {_SIZE}" if request.get("include_storage_size") else ", NULL"
    # The inner query needs only indexes; payloads are read for one page.
    page = f"SELECT c.seq FROM calls c WHERE {where.text} ORDER BY {terms}, c.seq LIMIT ? OFFSET ?"
    sql = (
        f"WITH page AS MATERIALIZED ({page}) "
        f"SELECT {_COLUMNS}{payloads}{size} FROM page JOIN calls c ON c.seq = page.seq "
        f"LEFT JOIN payloads p ON p.seq = c.seq ORDER BY {terms}, c.seq"
    )
    params = (*where.params, *order_params, *limit_and_offset(request))
    try:
        calls = [_call(project, row) for row in db.execute(sql, (*params, *order_params))]
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError:
        # At least one row is damaged; it must not hide the others.
        seqs = [seq for (seq,) in db.execute(page, params).fetchall()]
        calls = [read_damaged_call(db, project, seq, columns) for seq in seqs]
    if request.get("include_costs"):
        for call in calls:
            call["summary"]["weave"]["costs"] = cost_of(db, project, call)
    if request.get("include_feedback"):
        feedback = feedback_of_calls(db, project, [call["id"] for call in calls])
        for call in calls:
            call["summary"]["weave"]["feedback"] = feedback.get(call["id"], [])
    if request.get("include_total_storage_size"):
        for call in calls:
            call["total_storage_size_bytes"] = _trace_size(db, project, call["trace_id"])
    # Without values, `expand_columns` has no effect on the response.
    if request.get("return_expanded_column_values", True):
        for path in request.get("expand_columns") or ():
            for call in calls:
                _expand(db, call, path.split("."))
    return calls


_SIZE = (
    "coalesce(length(c.summary), 0) + coalesce(length(plain(p.attributes)), 0) + "
    "coalesce(length(plain(p.inputs)), 0) + coalesce(length(plain(p.output)), 0)"
)


def _trace_size(db: sqlite3.Connection, project: str, trace_id: str) -> int:
    sql = (
        f"SELECT sum({_SIZE}) FROM calls c LEFT JOIN payloads p ON p.seq = c.seq "
        "WHERE c.project = ? AND c.trace_id = ?"
    )
    return int(db.execute(sql, (name_id(db, project), trace_id)).fetchone()[0] or 0)


def _includes(columns: Sequence[str], name: str) -> bool:
    return any(column.split(".", 1)[0] == name for column in columns)


def _call(project: str, row: Sequence[Any]) -> dict[str, Any]:
    summary = loads_mapping(row[14])
    started, ended = row[8], row[9]
    started_iso, ended_iso = iso(started), iso(ended)
    if not all(isinstance(value, str) for value in (row[1], row[2], row[4], row[16])):
        raise sqlite3.DatabaseError("a stored id is damaged")
    views = summary.get("weave")
    summary["weave"] = {
        **(views if isinstance(views, dict) else {}),
        "status": row[15],
        "trace_name": row[16],
        "display_name": row[5],
        "latency_ms": None if ended is None else (ended - started) // 1000,
    }
    return {
        "project_id": project,
        "id": row[1],
        "trace_id": row[2],
        "parent_id": row[3],
        "op_name": row[4],
        "display_name": row[5],
        "thread_id": row[6],
        "turn_id": row[7],
        "started_at": started_iso,
        "ended_at": ended_iso,
        "wb_user_id": row[10],
        "wb_run_id": row[11],
        "wb_run_step": row[12],
        "wb_run_step_end": row[13],
        "summary": summary,
        # The client requires attributes and inputs, even if `columns` excludes them.
        "attributes": loads_mapping(row[17]),
        "inputs": loads_mapping(row[18]),
        "output": loads(row[19] or "null"),
        "exception": row[20],
        "storage_size_bytes": row[21],
    }


def read_damaged_call(
    db: sqlite3.Connection, project: str, seq: int, columns: Sequence[str] | None
) -> dict[str, Any]:
    """Return the record of one call, of which every part may be damaged.

    What cannot be read becomes empty, and an exception of the type ``Damaged`` names it.
    """
    row: list[Any] = [seq, f"damaged-{seq}", f"damaged-{seq}", *[None] * 19]
    row[4] = row[16] = "damaged"
    row[8], row[15] = 0, "success"
    damaged: list[str] = []
    with _noted(damaged, "the row"):
        read = db.execute(f"SELECT {_COLUMNS} FROM calls c WHERE c.seq = ?", (seq,)).fetchone()
        row[: len(read)] = read
    for index, name in ((1, "id"), (2, "trace_id"), (4, "op_name"), (16, "op_name")):
        if not isinstance(row[index], str):
            damaged.append(name)
            row[index] = "damaged" if name == "op_name" else f"damaged-{seq}"
    for index, name in ((8, "started_at"), (9, "ended_at")):
        try:
            iso(row[index])
        except sqlite3.DatabaseError:
            damaged.append(name)
            row[index] = row[8] if index == 9 else 0
    with _noted(damaged, "summary"):
        loads_mapping(row[14])
    if "summary" in damaged:
        row[14] = None
    for index, name in enumerate(_PAYLOADS, start=17):
        if columns is not None and not _includes(columns, name):
            continue
        with _noted(damaged, name):
            stored = db.execute(f"SELECT {name} FROM payloads WHERE seq = ?", (seq,)).fetchone()
            text = stored and stored[0] and unpack(str(stored[0]), lambda number: fetch_blob(db, number))
            if name in ("attributes", "inputs"):
                loads_mapping(text)
            elif name == "output":
                loads(text or "null")
            row[index] = text
    if damaged:
        parts = ", ".join(dict.fromkeys(damaged))
        row[15] = "error"
        row[20] = dumps({"type": "Damaged", "message": f"damaged in the file: {parts}", "traceback": ""})
    return _call(project, row)


@contextmanager
def _noted(damaged: list[str], name: str) -> Iterator[None]:
    """Add ``name`` to ``damaged`` if the block cannot read it."""
    try:
        yield
    except (sqlite3.DatabaseError, TypeError, ValueError, OverflowError):
        damaged.append(name)


def _expand(db: sqlite3.Connection, value: Any, path: Sequence[str]) -> None:
    """Replace the first reference on ``path`` by the reference and its value, in place."""
    if not path or not isinstance(value, dict) or path[0] not in value:
        return
    child = value[path[0]]
    if isinstance(child, str) and child.startswith("weave:///"):
        value[path[0]] = {"_ref": child, "_val": value_of(db, child)}
        return
    _expand(db, child, path[1:])


def count_calls(db: sqlite3.Connection, request: Mapping[str, Any]) -> int:
    """Return how many calls match a body of ``/calls/query_stats``, at most ``limit``.

    Raises:
        BadRequestError: A filter, operator or field is unknown.
    """
    where = call_conditions(db, request["project_id"], request.get("filter"), request.get("query"))
    limit = request.get("limit")
    if limit is None:
        sql, params = f"SELECT count(*) FROM calls c WHERE {where.text}", where.params
    else:
        sql = f"SELECT count(*) FROM (SELECT 1 FROM calls c WHERE {where.text} LIMIT ?)"
        params = (*where.params, int(limit))
    return int(db.execute(sql, params).fetchone()[0])
