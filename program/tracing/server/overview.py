"""Counts the traces of each user and each run."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any

from program.tracing.server.codec import iso
from program.tracing.server.database import name_id


def users(
    db: sqlite3.Connection, project: str, *, search: str = "", limit: int = 200, offset: int = 0
) -> list[dict[str, Any]]:
    """Return one page of users, sorted by id: traces, traces with a failure, time of the latest one."""
    rows = db.execute(
        "SELECT user_id, count(*), sum(failed OR errors > 0), max(started_at) FROM calls "
        "WHERE project = ? AND parent_id IS NULL AND started_at IS NOT NULL "
        "AND instr(coalesce(user_id, ''), ?) GROUP BY user_id ORDER BY user_id LIMIT ? OFFSET ?",
        (name_id(db, project), search, limit, offset),
    )
    return [{"user_id": u, "traces": n, "failed": bad, "latest": _time(at)} for u, n, bad, at in rows]


def runs(db: sqlite3.Connection, project: str, *, limit: int = 200, offset: int = 0) -> list[dict[str, Any]]:
    """Return one page of runs, newest first: traces, users, failures, model calls, tokens and cost."""
    rows = db.execute(
        """SELECT run_id, count(*), count(DISTINCT user_id), sum(failed OR errors > 0),
            min(started_at), max(ended_at), sum(usd), sum(model_calls), sum(tokens)
        FROM calls WHERE project = ? AND run_id IS NOT NULL AND parent_id IS NULL
            AND started_at IS NOT NULL
        GROUP BY run_id ORDER BY min(started_at) DESC LIMIT ? OFFSET ?""",
        (name_id(db, project), limit, offset),
    )
    names = ("run_id", "traces", "users", "failed", "started", "ended", "usd", "model_calls", "tokens")
    return [
        {**dict(zip(names, row, strict=True)), "started": _time(row[4]), "ended": _time(row[5])}
        for row in rows
    ]


def _time(value: Any) -> str | None:
    # A damaged time of one trace must not hide the others.
    with suppress(sqlite3.DatabaseError):
        return iso(value)
    return None
