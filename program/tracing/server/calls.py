"""Calls: written in two halves that may come in any order, read in pages."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from program.tracing.server.call_fields import OP, STATUS, TRACE_NAME, call_conditions, call_field
from program.tracing.server.codec import dumps, iso, micros
from program.tracing.server.costs import cost_of
from program.tracing.server.database import Database, known_name, store_text
from program.tracing.server.feedback import feedback_of_calls
from program.tracing.server.objects import value_of
from program.tracing.server.query import compile_sort

_REF = re.compile(r'weave:///[^"\\\s]+')

_START = """INSERT INTO calls (project, id, trace_id, parent_id, op, display_name, thread_id, turn_id,
    started_at, wb_user_id, wb_run_id, wb_run_step, user_id, run_id, step)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
        json_extract(?13, '$.user_id'), json_extract(?13, '$.run_id'), json_extract(?13, '$.step'))
    ON CONFLICT (project, id) DO UPDATE SET trace_id = excluded.trace_id, parent_id = excluded.parent_id,
        op = excluded.op, display_name = coalesce(display_name, excluded.display_name),
        thread_id = excluded.thread_id, turn_id = excluded.turn_id, started_at = excluded.started_at,
        wb_user_id = excluded.wb_user_id, wb_run_id = excluded.wb_run_id,
        wb_run_step = excluded.wb_run_step, user_id = excluded.user_id, run_id = excluded.run_id,
        step = excluded.step
    RETURNING seq"""
_START_PAYLOAD = """INSERT INTO payloads (seq, attributes, inputs) VALUES (?, ?, ?)
    ON CONFLICT (seq) DO UPDATE SET attributes = excluded.attributes, inputs = excluded.inputs"""
_END = """INSERT INTO calls (project, id, ended_at, failed, errors, model_calls, tokens, usd, summary,
    wb_run_step_end)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (project, id) DO UPDATE SET ended_at = excluded.ended_at, failed = excluded.failed,
        errors = excluded.errors, model_calls = excluded.model_calls, tokens = excluded.tokens,
        usd = excluded.usd, summary = excluded.summary, wb_run_step_end = excluded.wb_run_step_end
    RETURNING seq"""
_END_PAYLOAD = """INSERT INTO payloads (seq, output, exception) VALUES (?, ?, ?)
    ON CONFLICT (seq) DO UPDATE SET output = excluded.output, exception = excluded.exception"""


def write_start(store: Database, db: sqlite3.Connection, start: Mapping[str, Any]) -> None:
    """Store the first half of a call; repeating it changes nothing.

    Raises:
        KeyError: A field is missing.
        ValueError: ``started_at`` is no time.
    """
    project = store.name(db, start["project_id"])
    attributes = dumps(start.get("attributes") or {})
    ((seq,),) = db.execute(
        _START,
        (
            project,
            start["id"],
            start["trace_id"],
            start.get("parent_id"),
            store.name(db, start["op_name"]),
            start.get("display_name"),
            start.get("thread_id"),
            start.get("turn_id"),
            micros(start["started_at"]),
            start.get("wb_user_id"),
            start.get("wb_run_id"),
            start.get("wb_run_step"),
            attributes,
        ),
    )
    inputs = dumps(start.get("inputs") or {})
    db.execute(_START_PAYLOAD, (seq, store_text(db, seq, attributes), store_text(db, seq, inputs)))
    _note_refs(db, project, seq, 0, inputs)


def write_end(store: Database, db: sqlite3.Connection, end: Mapping[str, Any]) -> None:
    """Store the second half of a call, also where the first has not come yet.

    Raises:
        KeyError: A field is missing.
        ValueError: ``ended_at`` is no time.
    """
    project = store.name(db, end["project_id"])
    summary = end.get("summary") or {}
    exception = end.get("exception")
    errors = (summary.get("status_counts") or {}).get("error") or 0
    ((seq,),) = db.execute(
        _END,
        (
            project,
            end["id"],
            micros(end["ended_at"]),
            int(exception is not None),
            errors,
            _summed(summary, "requests"),
            _summed(summary, "total_tokens"),
            (summary.get("cost") or {}).get("usd") or 0.0,
            dumps(summary),
            end.get("wb_run_step_end"),
        ),
    )
    output = dumps(end.get("output"))
    packed = None if exception is None else store_text(db, seq, exception)
    db.execute(_END_PAYLOAD, (seq, store_text(db, seq, output), packed))
    _note_refs(db, project, seq, 1, output)


def _summed(summary: Mapping[str, Any], name: str) -> int:
    return sum(one.get(name) or 0 for one in (summary.get("usage") or {}).values())


def _note_refs(db: sqlite3.Connection, project: int, seq: int, side: int, text: str) -> None:
    if "weave:///" in text:
        refs = {(project, ref, side, seq) for ref in _REF.findall(text)}
        db.executemany("INSERT OR IGNORE INTO call_refs VALUES (?, ?, ?, ?)", refs)


def rename(db: sqlite3.Connection, project: str, call_id: str, display_name: str | None) -> None:
    """Set a call's display name; an empty one removes it."""
    db.execute(
        "UPDATE calls SET display_name = ? WHERE project = ? AND id = ?",
        (display_name or None, known_name(db, project), call_id),
    )


# Columns of one row in SQL, in the order `_call` reads them.
_LIGHT = (
    f"c.seq, c.id, c.trace_id, c.parent_id, {OP}, c.display_name, c.thread_id, c.turn_id, c.started_at, "
    "c.ended_at, c.wb_user_id, c.wb_run_id, c.wb_run_step, c.wb_run_step_end, c.summary, "
    f"{STATUS}, {TRACE_NAME}"
)
_HEAVY = ("attributes", "inputs", "output", "exception")


def query_calls(db: sqlite3.Connection, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one page of calls as Weave's wire records, in a stable order.

    Args:
        db: Where to read.
        request: A body of ``/calls/stream_query``; no ``limit`` means all.

    Raises:
        BadRequestError: An unknown filter, operator, field or direction.
        KeyError: No ``project_id``.
    """
    project = request["project_id"]
    where = call_conditions(db, project, request.get("filter"), request.get("query"))
    order = compile_sort(request.get("sort_by"), call_field)
    terms = ", ".join([term.text for term in order] or ["c.started_at"])
    order_params = tuple(value for term in order for value in term.params)
    limit, offset = request.get("limit"), request.get("offset")
    columns = request.get("columns")
    wanted = [name for name in _HEAVY if columns is None or _asks_for(columns, name)]
    heavy = "".join(f", plain(p.{name})" if name in wanted else ", NULL" for name in _HEAVY)
    size = f", {_SIZE}" if request.get("include_storage_size") else ", NULL"
    # The page is found on indexes alone; only its rows are then read.
    sql = (
        f"WITH page AS MATERIALIZED (SELECT c.seq FROM calls c WHERE {where.text} "
        f"ORDER BY {terms}, c.seq LIMIT ? OFFSET ?) "
        f"SELECT {_LIGHT}{heavy}{size} FROM page JOIN calls c ON c.seq = page.seq "
        f"LEFT JOIN payloads p ON p.seq = c.seq ORDER BY {terms}, c.seq"
    )
    page = (-1 if limit is None else int(limit), int(offset or 0))
    rows = db.execute(sql, (*where.params, *order_params, *page, *order_params)).fetchall()
    calls = [_call(project, row) for row in rows]
    if request.get("include_costs"):
        for call in calls:
            call["summary"]["weave"]["costs"] = cost_of(db, project, call)
    if request.get("include_feedback"):
        found = feedback_of_calls(db, project, [call["id"] for call in calls])
        for call in calls:
            call["summary"]["weave"]["feedback"] = found.get(call["id"], [])
    if request.get("include_total_storage_size"):
        for call in calls:
            call["total_storage_size_bytes"] = _trace_size(db, project, call["trace_id"])
    # Without values, `expand_columns` asks for nothing in the answer.
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
    return int(db.execute(sql, (known_name(db, project), trace_id)).fetchone()[0] or 0)


def _asks_for(columns: Sequence[str], name: str) -> bool:
    return any(column.split(".", 1)[0] == name for column in columns)


def _call(project: str, row: Sequence[Any]) -> dict[str, Any]:
    summary = json.loads(row[14] or "{}")
    started, ended = row[8], row[9]
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
        "started_at": iso(started),
        "ended_at": iso(ended),
        "wb_user_id": row[10],
        "wb_run_id": row[11],
        "wb_run_step": row[12],
        "wb_run_step_end": row[13],
        "summary": summary,
        # The client's model demands these two, also where `columns` left them out.
        "attributes": json.loads(row[17] or "{}"),
        "inputs": json.loads(row[18] or "{}"),
        "output": json.loads(row[19] or "null"),
        "exception": row[20],
        "storage_size_bytes": row[21],
    }


def _expand(db: sqlite3.Connection, value: Any, path: Sequence[str]) -> None:
    if not path or not isinstance(value, dict) or path[0] not in value:
        return
    found = value[path[0]]
    if isinstance(found, str) and found.startswith("weave:///"):
        value[path[0]] = {"_ref": found, "_val": value_of(db, found)}
        return
    _expand(db, found, path[1:])


def count_calls(db: sqlite3.Connection, request: Mapping[str, Any]) -> int:
    """Return how many calls match a body of ``/calls/query_stats``.

    Raises:
        BadRequestError: An unknown filter, operator or field.
    """
    where = call_conditions(db, request["project_id"], request.get("filter"), request.get("query"))
    limit = request.get("limit")
    if limit is None:
        sql, params = f"SELECT count(*) FROM calls c WHERE {where.text}", where.params
    else:
        sql = f"SELECT count(*) FROM (SELECT 1 FROM calls c WHERE {where.text} LIMIT ?)"
        params = (*where.params, int(limit))
    return int(db.execute(sql, params).fetchone()[0])


def delete_calls(db: sqlite3.Connection, project: str, call_ids: Collection[str]) -> int:
    """Delete the calls with everything below them and their feedback; return how many went."""
    number = known_name(db, project)
    db.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (seq INTEGER PRIMARY KEY)")
    db.execute("DELETE FROM doomed")
    db.execute(
        """INSERT INTO doomed WITH RECURSIVE below (seq, id) AS (
            SELECT seq, id FROM calls WHERE project = ?1 AND id IN (SELECT value FROM json_each(?2))
            UNION SELECT c.seq, c.id FROM calls c JOIN below ON c.project = ?1 AND c.parent_id = below.id)
        SELECT seq FROM below""",
        (number, json.dumps(list(call_ids))),
    )
    return delete_doomed(db, number)


def delete_doomed(db: sqlite3.Connection, project: int) -> int:
    """Delete the calls listed in the temporary table ``doomed``; return how many went."""
    db.execute(
        "DELETE FROM feedback WHERE project = ? AND call_id IN "
        "(SELECT id FROM calls WHERE seq IN (SELECT seq FROM doomed))",
        (project,),
    )
    db.execute("CREATE TEMP TABLE IF NOT EXISTS loose (blob INTEGER PRIMARY KEY)")
    db.execute("DELETE FROM loose")
    db.execute("INSERT OR IGNORE INTO loose SELECT blob FROM blob_uses WHERE seq IN (SELECT seq FROM doomed)")
    for table in ("call_refs", "blob_uses", "payloads"):
        db.execute(f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM doomed)")
    gone = db.execute("DELETE FROM calls WHERE seq IN (SELECT seq FROM doomed)").rowcount
    db.execute(
        "DELETE FROM blobs WHERE id IN (SELECT blob FROM loose) "
        "AND NOT EXISTS (SELECT 1 FROM blob_uses u WHERE u.blob = blobs.id)"
    )
    return int(gone)


def interrupt_open(db: sqlite3.Connection, project: str, is_dead: Callable[[str], bool]) -> int:
    """End the open calls of processes that are no more; return how many there were.

    They end with the last thing known to have happened in their trace, as interrupted.

    Args:
        db: In a write transaction.
        project: ``entity/project``.
        is_dead: Given a call's ``process`` attribute, whether that process has certainly ended.
    """
    rows = db.execute(
        "SELECT c.seq, c.trace_id, c.started_at, json_extract(plain(p.attributes), '$.process') "
        "FROM calls c JOIN payloads p ON p.seq = c.seq "
        "WHERE c.project = ? AND c.ended_at IS NULL AND c.started_at IS NOT NULL",
        (known_name(db, project),),
    ).fetchall()
    dead = {process: is_dead(process) for process in {row[3] for row in rows} if isinstance(process, str)}
    interrupted = [row for row in rows if dead.get(row[3])]
    for seq, trace_id, started_at, _ in interrupted:
        last = db.execute(
            "SELECT max(max(started_at), coalesce(max(ended_at), 0)) FROM calls "
            "WHERE project = ? AND trace_id = ?",
            (known_name(db, project), trace_id),
        ).fetchone()[0]
        db.execute("UPDATE calls SET ended_at = ?, failed = 1 WHERE seq = ?", (max(last, started_at), seq))
        db.execute("UPDATE payloads SET exception = ? WHERE seq = ?", (_INTERRUPTED, seq))
    return len(interrupted)


_INTERRUPTED = dumps(
    {"type": "Interrupted", "message": "the process ended before this step did", "traceback": ""}
)
