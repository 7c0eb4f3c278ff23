"""Writes, renames, deletes and interrupts calls. Start and end of a call may arrive in any order."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from program.tracing.server.codec import dumps, loads, micros, unpack
from program.tracing.server.database import Database, fetch_blob, name_id, store_text

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


def write_start(database: Database, db: sqlite3.Connection, start: Mapping[str, Any]) -> None:
    """Store the start of a call. Repeating it changes nothing.

    Raises:
        KeyError: A field is missing.
        ValueError: ``started_at`` is not a time.
    """
    project = database.intern_name(db, start["project_id"])
    attributes = dumps(start.get("attributes") or {})
    ((seq,),) = db.execute(
        _START,
        (
            project,
            start["id"],
            start["trace_id"],
            start.get("parent_id"),
            database.intern_name(db, start["op_name"]),
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
    _store_refs(db, project, seq, 0, inputs)


def write_end(database: Database, db: sqlite3.Connection, end: Mapping[str, Any]) -> None:
    """Store the end of a call, whether or not its start is stored yet.

    Raises:
        KeyError: A field is missing.
        ValueError: ``ended_at`` is not a time.
    """
    project = database.intern_name(db, end["project_id"])
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
            _total(summary, "requests"),
            _total(summary, "total_tokens"),
            (summary.get("cost") or {}).get("usd") or 0.0,
            dumps(summary),
            end.get("wb_run_step_end"),
        ),
    )
    output = dumps(end.get("output"))
    packed = None if exception is None else store_text(db, seq, exception)
    db.execute(_END_PAYLOAD, (seq, store_text(db, seq, output), packed))
    _store_refs(db, project, seq, 1, output)


def _total(summary: Mapping[str, Any], name: str) -> int:
    return sum(usage.get(name) or 0 for usage in (summary.get("usage") or {}).values())


def _store_refs(db: sqlite3.Connection, project: int, seq: int, side: int, text: str) -> None:
    if "weave:///" in text:
        refs = {(project, ref, side, seq) for ref in _REF.findall(text)}
        db.executemany("INSERT OR IGNORE INTO call_refs VALUES (?, ?, ?, ?)", refs)


def rename(db: sqlite3.Connection, project: str, call_id: str, display_name: str | None) -> None:
    """Set a call's display name; an empty one removes it."""
    db.execute(
        "UPDATE calls SET display_name = ? WHERE project = ? AND id = ?",
        (display_name or None, name_id(db, project), call_id),
    )


def delete_calls(
    db: sqlite3.Connection,
    project: str,
    column: Literal["id", "user_id", "trace_id"],
    values: Collection[str],
) -> int:
    """Delete calls with everything below them and their feedback; return the number of calls deleted.

    Texts that calls share are deleted with the last call that uses them.

    Args:
        db: In a write transaction.
        project: ``entity/project``.
        column: The column that selects the calls.
        values: The values of that column.
    """
    number = name_id(db, project)
    db.execute("CREATE TEMP TABLE IF NOT EXISTS selected (seq INTEGER PRIMARY KEY)")
    db.execute("DELETE FROM selected")
    db.execute(
        f"""INSERT INTO selected WITH RECURSIVE below (seq, id) AS (
            SELECT seq, id FROM calls WHERE project = ?1 AND {column} IN (SELECT value FROM json_each(?2))
            UNION SELECT c.seq, c.id FROM calls c JOIN below ON c.project = ?1 AND c.parent_id = below.id)
        SELECT seq FROM below""",
        (number, json.dumps(list(values))),
    )
    db.execute(
        "DELETE FROM feedback WHERE project = ? AND call_id IN "
        "(SELECT id FROM calls WHERE seq IN (SELECT seq FROM selected))",
        (number,),
    )
    db.execute("CREATE TEMP TABLE IF NOT EXISTS selected_blobs (blob INTEGER PRIMARY KEY)")
    db.execute("DELETE FROM selected_blobs")
    db.execute(
        "INSERT OR IGNORE INTO selected_blobs "
        "SELECT blob FROM blob_uses WHERE seq IN (SELECT seq FROM selected)"
    )
    for table in ("call_refs", "blob_uses", "payloads"):
        db.execute(f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM selected)")
    deleted = db.execute("DELETE FROM calls WHERE seq IN (SELECT seq FROM selected)").rowcount
    db.execute(
        "DELETE FROM blobs WHERE id IN (SELECT blob FROM selected_blobs) "
        "AND NOT EXISTS (SELECT 1 FROM blob_uses u WHERE u.blob = blobs.id)"
    )
    return int(deleted)


def interrupt_open(db: sqlite3.Connection, project: str, is_dead: Callable[[str], bool]) -> int:
    """End the open calls of dead processes as interrupted; return how many there were.

    Each ends at the latest time recorded in its trace.

    Args:
        db: In a write transaction.
        project: ``entity/project``.
        is_dead: Whether the process named by a call's ``process`` attribute has certainly ended.
    """
    rows = db.execute(
        "SELECT c.seq, c.trace_id, c.started_at, p.attributes FROM calls c JOIN payloads p ON p.seq = c.seq "
        "WHERE c.project = ? AND c.ended_at IS NULL AND c.started_at IS NOT NULL",
        (name_id(db, project),),
    ).fetchall()
    processes = {row[0]: _process(db, row[3]) for row in rows}
    dead = {process: is_dead(process) for process in set(processes.values()) if process}
    interrupted = [row for row in rows if dead.get(processes[row[0]]) and isinstance(row[2], int)]
    for seq, trace_id, started_at, _ in interrupted:
        last = db.execute(
            "SELECT max(max(started_at), coalesce(max(ended_at), 0)) FROM calls "
            "WHERE project = ? AND trace_id = ?",
            (name_id(db, project), trace_id),
        ).fetchone()[0]
        db.execute("UPDATE calls SET ended_at = ?, failed = 1 WHERE seq = ?", (max(last, started_at), seq))
        db.execute("UPDATE payloads SET exception = ? WHERE seq = ?", (_INTERRUPTED, seq))
    return len(interrupted)


def _process(db: sqlite3.Connection, attributes: Any) -> str:
    """Return the process of a call's packed attributes; empty if it is missing or damaged."""
    try:
        process = loads(unpack(attributes, lambda number: fetch_blob(db, number)))["process"]
    except (sqlite3.DatabaseError, TypeError, KeyError):
        return ""
    return process if isinstance(process, str) else ""


_INTERRUPTED = dumps(
    {"type": "Interrupted", "message": "the process ended before this step did", "traceback": ""}
)
