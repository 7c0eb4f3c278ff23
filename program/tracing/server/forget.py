"""Hard deletion of everything one user left in the traces."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection

from program.tracing.server.calls import delete_doomed
from program.tracing.server.database import known_name

_TABLE = re.compile(r"weave:///[^/]+/[^/]+/table/([0-9a-f]+)")


def forget(
    db: sqlite3.Connection, project: str, user_ids: Collection[str], object_ids: Collection[str]
) -> int:
    """Delete a user's calls, feedback and objects; return the number of calls deleted.

    Every call that carries one of ``user_ids`` goes with all that is below it, and a trace whose
    root carries one goes whole. Shared rows and passages stay as long as another user has them.

    Args:
        db: In a write transaction.
        project: ``entity/project``.
        user_ids: All names the user has in call attributes (id, pseudonym).
        object_ids: The user's own objects (persona, interactions).
    """
    number = known_name(db, project)
    db.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (seq INTEGER PRIMARY KEY)")
    db.execute("DELETE FROM doomed")
    db.execute(
        """INSERT INTO doomed WITH RECURSIVE below (seq, id) AS (
            SELECT seq, id FROM calls WHERE project = ?1 AND user_id IN (SELECT value FROM json_each(?2))
            UNION SELECT c.seq, c.id FROM calls c JOIN below ON c.project = ?1 AND c.parent_id = below.id)
        SELECT seq FROM below""",
        (number, json.dumps(list(user_ids))),
    )
    gone = delete_doomed(db, number)
    for object_id in object_ids:
        _forget_object(db, number, object_id)
    return gone


def _forget_object(db: sqlite3.Connection, project: int, object_id: str) -> None:
    key = (project, object_id)
    vals = db.execute("SELECT val FROM objects WHERE project = ? AND object_id = ?", key).fetchall()
    for table in ("objects", "tags", "aliases"):
        db.execute(f"DELETE FROM {table} WHERE project = ? AND object_id = ?", key)
    db.execute("DELETE FROM feedback WHERE project = ? AND instr(weave_ref, '/object/' || ? || ':') > 0", key)
    for digest in {digest for (val,) in vals if val for digest in _TABLE.findall(val)}:
        used = "SELECT 1 FROM objects WHERE project = ? AND instr(val, '/table/' || ?) > 0 LIMIT 1"
        if db.execute(used, (project, digest)).fetchone():
            continue
        db.execute("DELETE FROM tables WHERE project = ? AND digest = ?", (project, digest))
        rows = db.execute(
            "DELETE FROM table_members WHERE project = ? AND digest = ? RETURNING row_digest",
            (project, digest),
        ).fetchall()
        db.execute(
            "DELETE FROM table_rows WHERE project = ?1 AND digest IN (SELECT value FROM json_each(?2)) "
            "AND NOT EXISTS (SELECT 1 FROM table_members m "
            "WHERE m.project = ?1 AND m.row_digest = table_rows.digest)",
            (project, json.dumps([digest for (digest,) in rows])),
        )
