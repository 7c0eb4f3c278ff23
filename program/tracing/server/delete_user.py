"""Deletes all rows about one user: calls, feedback and objects."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection

from program.tracing.server.calls import delete_calls
from program.tracing.server.database import name_id

_TABLE = re.compile(r"weave:///[^/]+/[^/]+/table/([0-9a-f]+)")


def delete_user(
    db: sqlite3.Connection, project: str, user_ids: Collection[str], object_ids: Collection[str]
) -> int:
    """Delete a user's calls, feedback and objects; return the number of calls deleted.

    Deletes every call with one of ``user_ids`` and everything below it. Rows and texts that users
    share are deleted with the last user that has them.

    Args:
        db: In a write transaction.
        project: ``entity/project``.
        user_ids: The user's ids in call attributes: the real one and the pseudonym.
        object_ids: The user's own objects: personas and interactions.
    """
    deleted = delete_calls(db, project, "user_id", user_ids)
    for object_id in object_ids:
        _delete_object(db, name_id(db, project), object_id)
    return deleted


def _delete_object(db: sqlite3.Connection, project: int, object_id: str) -> None:
    key = (project, object_id)
    vals = db.execute("SELECT val FROM objects WHERE project = ? AND object_id = ?", key).fetchall()
    for table in ("objects", "tags", "aliases"):
        db.execute(f"DELETE FROM {table} WHERE project = ? AND object_id = ?", key)
    db.execute("DELETE FROM feedback WHERE project = ? AND instr(weave_ref, '/object/' || ? || ':') > 0", key)
    for digest in {digest for (val,) in vals if val for digest in _TABLE.findall(val)}:
        other_use = "SELECT 1 FROM objects WHERE project = ? AND instr(val, '/table/' || ?) > 0 LIMIT 1"
        if db.execute(other_use, (project, digest)).fetchone():
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
