"""Removes old traces, by age and by the size of the file; never one of a run that is in progress."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import NamedTuple

from program.tracing.server.calls import delete_calls
from program.tracing.server.database import Database, name_id

_CHUNK = 50
"""Traces removed in one transaction: others write in between."""

_ROW_BYTES = 400
"""What a call takes in tables and indexes beside its texts. Passages count for all calls that share them."""

# A run may have several traces; it is in progress while any call of it is open.
_ENDED = f"""
WITH uses AS (SELECT blob, count(*) AS n FROM blob_uses GROUP BY blob),
passages AS (
    SELECT u.seq, sum(length(b.body) / n) AS bytes
    FROM blob_uses u JOIN blobs b ON b.id = u.blob JOIN uses ON uses.blob = u.blob GROUP BY u.seq),
ended AS (
    SELECT trace_id, max(c.ended_at) AS at, count(*) AS calls, max(c.run_id) AS run,
        sum({_ROW_BYTES} + coalesce(length(c.summary), 0) + coalesce(length(p.attributes), 0)
            + coalesce(length(p.inputs), 0) + coalesce(length(p.output), 0) + coalesce(b.bytes, 0)) AS bytes
    FROM calls c LEFT JOIN payloads p ON p.seq = c.seq LEFT JOIN passages b ON b.seq = c.seq
    WHERE c.project = ?1 AND trace_id IS NOT NULL
    GROUP BY trace_id
    HAVING count(c.ended_at) = count(*))
SELECT trace_id, at, calls, bytes FROM ended
WHERE NOT EXISTS (
    SELECT 1 FROM calls o WHERE o.project = ?1 AND o.ended_at IS NULL AND o.run_id = ended.run)
ORDER BY at, trace_id"""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        traces: Their number.
        calls: The calls in them.
        bytes_before: What the file holds, without its free pages.
        bytes_after: The same afterwards; estimated if nothing was removed yet.
    """

    traces: int
    calls: int
    bytes_before: int
    bytes_after: int


class _Trace(NamedTuple):
    trace_id: str
    ended: int
    calls: int
    size: int


def prune(
    database: Database, project: str, *, before: int | None, max_bytes: int | None, dry_run: bool = False
) -> Pruned:
    """Remove the traces that ended before a time, then the oldest ones until the file is small enough.

    Args:
        database: The trace file.
        project: ``entity/project``.
        before: In microseconds since 1970; ``None`` for no limit.
        max_bytes: What the file may hold, without its free pages, which new traces fill; ``None`` for no
            limit. What objects and traces in progress take is not removed.
        dry_run: Remove nothing, and estimate.
    """
    with database.reading() as db:
        size = _used_bytes(db)
        if not (_has_older(db, project, before) or (max_bytes is not None and size > max_bytes)):
            return Pruned(traces=0, calls=0, bytes_before=size, bytes_after=size)
        traces = [_Trace(*row) for row in db.execute(_ENDED, (name_id(db, project),))]
    old = [trace for trace in traces if before is not None and trace.ended < before]
    rest = traces[len(old) :]
    if dry_run:
        left = size - sum(trace.size for trace in old)
        while rest and max_bytes is not None and left > max_bytes:
            left -= rest[0].size
            old.append(rest.pop(0))
        calls = sum(trace.calls for trace in old)
        return Pruned(traces=len(old), calls=calls, bytes_before=size, bytes_after=max(0, left))
    removed, calls = len(old), 0
    for start in range(0, len(old), _CHUNK):
        calls += _remove(database, project, old[start : start + _CHUNK])
    left = _size(database)
    while rest and max_bytes is not None and left > max_bytes:
        chunk = _enough(rest[:_CHUNK], left - max_bytes)
        rest = rest[len(chunk) :]
        removed += len(chunk)
        calls += _remove(database, project, chunk)
        left = _size(database)
    return Pruned(traces=removed, calls=calls, bytes_before=size, bytes_after=left)


def is_idle(database: Database, project: str) -> bool:
    """Return whether no call is in progress."""
    with database.reading() as db:
        query = "SELECT 1 FROM calls WHERE project = ? AND ended_at IS NULL LIMIT 1"
        return db.execute(query, (name_id(db, project),)).fetchone() is None


def _has_older(db: sqlite3.Connection, project: str, before: int | None) -> bool:
    query = "SELECT 1 FROM calls WHERE project = ? AND started_at < ? LIMIT 1"
    return before is not None and db.execute(query, (name_id(db, project), before)).fetchone() is not None


def _enough(traces: list[_Trace], excess: int) -> list[_Trace]:
    """Return the first traces that hold about ``excess`` bytes, at least one."""
    for number, trace in enumerate(traces, 1):
        excess -= trace.size
        if excess <= 0:
            return traces[:number]
    return traces


def _remove(database: Database, project: str, traces: list[_Trace]) -> int:
    with database.writing() as db:
        return delete_calls(db, project, "trace_id", [trace.trace_id for trace in traces])


def _size(database: Database) -> int:
    with database.reading() as db:
        return _used_bytes(db)


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
