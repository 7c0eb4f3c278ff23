"""The tables of the trace file, and the migrations that upgrade older files.

A migration is a tuple of statements. Its position in `MIGRATIONS`, counted from 1, is the schema
version after it. Never edit a released migration; append a new one.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import suppress
from itertools import chain

from program.errors import StoreError


class DamagedTracesError(StoreError):
    """The file is damaged, or is not a trace store."""


class NewerTracesError(StoreError):
    """The file was written by a newer program."""


APPLICATION_ID = 0x50415452
"""Marks the file, in its header, as a trace store of this program."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Project and op names, stored once, so that index entries hold small integers.
        "CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, short TEXT NOT NULL)",
        # The columns that lists need. `started_at` is NULL until the start arrives. user_id, run_id
        # and step are copies of attributes, for the indexes; model_calls, tokens and usd are sums
        # over the summary.
        """CREATE TABLE calls (
            seq INTEGER PRIMARY KEY,
            project INTEGER NOT NULL,
            id TEXT NOT NULL,
            trace_id TEXT, parent_id TEXT, op INTEGER, display_name TEXT,
            thread_id TEXT, turn_id TEXT,
            started_at INTEGER, ended_at INTEGER,
            failed INTEGER NOT NULL DEFAULT 0,
            errors INTEGER NOT NULL DEFAULT 0,
            wb_user_id TEXT, wb_run_id TEXT, wb_run_step INTEGER, wb_run_step_end INTEGER,
            user_id, run_id, step,
            model_calls INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,
            usd REAL NOT NULL DEFAULT 0,
            summary TEXT,
            UNIQUE (project, id))""",
        "CREATE INDEX calls_by_time ON calls (project, started_at)",
        "CREATE INDEX calls_by_trace ON calls (project, trace_id, started_at)",
        "CREATE INDEX calls_by_parent ON calls (project, parent_id, started_at)",
        "CREATE INDEX calls_by_op ON calls (project, op, started_at)",
        "CREATE INDEX calls_by_user ON calls (project, user_id, started_at) WHERE user_id IS NOT NULL",
        # Lists show the root of each trace; these indexes cover the lists of users and traces.
        "CREATE INDEX roots_by_user ON calls (project, user_id, started_at, failed, errors) "
        "WHERE parent_id IS NULL",
        "CREATE INDEX roots_by_time ON calls (project, started_at) WHERE parent_id IS NULL",
        "CREATE INDEX roots_failed ON calls (project, started_at) "
        "WHERE parent_id IS NULL AND (failed OR errors > 0)",
        "CREATE INDEX roots_by_run ON calls (project, run_id, started_at) "
        "WHERE parent_id IS NULL AND run_id IS NOT NULL",
        "CREATE INDEX calls_by_thread ON calls (project, thread_id, started_at) WHERE thread_id IS NOT NULL",
        "CREATE INDEX calls_failed ON calls (project, started_at) WHERE failed = 1",
        "CREATE INDEX calls_open ON calls (project, started_at) WHERE ended_at IS NULL",
        # The large columns; long repeated passages are replaced by ids of blobs (see codec.py).
        """CREATE TABLE payloads (
            seq INTEGER PRIMARY KEY,
            attributes TEXT, inputs TEXT, output TEXT, exception TEXT)""",
        "CREATE TABLE blobs (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, body TEXT NOT NULL)",
        """CREATE TABLE blob_uses (seq INTEGER NOT NULL, blob INTEGER NOT NULL,
            PRIMARY KEY (seq, blob)) WITHOUT ROWID""",
        "CREATE INDEX blob_uses_by_blob ON blob_uses (blob)",
        # Which objects a call names in its inputs (side 0) and output (side 1).
        """CREATE TABLE call_refs (project INTEGER NOT NULL, ref TEXT NOT NULL, side INTEGER NOT NULL,
            seq INTEGER NOT NULL, PRIMARY KEY (project, ref, side, seq)) WITHOUT ROWID""",
        "CREATE INDEX call_refs_by_call ON call_refs (seq)",
        # `touched` orders the versions of one object by when they were last published.
        """CREATE TABLE objects (
            seq INTEGER PRIMARY KEY,
            project INTEGER NOT NULL, object_id TEXT NOT NULL, digest TEXT NOT NULL,
            version_index INTEGER NOT NULL, touched INTEGER NOT NULL,
            kind TEXT NOT NULL, base_class TEXT, leaf_class TEXT,
            val TEXT, created_at INTEGER NOT NULL, deleted_at INTEGER, wb_user_id TEXT,
            UNIQUE (project, object_id, digest))""",
        "CREATE UNIQUE INDEX objects_by_version ON objects (project, object_id, version_index)",
        "CREATE INDEX objects_by_touch ON objects (project, object_id, touched)",
        """CREATE TABLE tags (project INTEGER NOT NULL, object_id TEXT NOT NULL, digest TEXT NOT NULL,
            tag TEXT NOT NULL, PRIMARY KEY (project, object_id, digest, tag)) WITHOUT ROWID""",
        """CREATE TABLE aliases (project INTEGER NOT NULL, object_id TEXT NOT NULL, alias TEXT NOT NULL,
            digest TEXT NOT NULL, PRIMARY KEY (project, object_id, alias)) WITHOUT ROWID""",
        """CREATE TABLE table_rows (project INTEGER NOT NULL, digest TEXT NOT NULL, val TEXT NOT NULL,
            PRIMARY KEY (project, digest))""",
        """CREATE TABLE tables (project INTEGER NOT NULL, digest TEXT NOT NULL, rows INTEGER NOT NULL,
            PRIMARY KEY (project, digest)) WITHOUT ROWID""",
        """CREATE TABLE table_members (project INTEGER NOT NULL, digest TEXT NOT NULL,
            position INTEGER NOT NULL, row_digest TEXT NOT NULL,
            PRIMARY KEY (project, digest, position)) WITHOUT ROWID""",
        "CREATE INDEX table_members_by_row ON table_members (project, row_digest)",
        """CREATE TABLE files (project INTEGER NOT NULL, digest TEXT NOT NULL, content BLOB NOT NULL,
            PRIMARY KEY (project, digest))""",
        """CREATE TABLE feedback (
            seq INTEGER PRIMARY KEY,
            project INTEGER NOT NULL, id TEXT NOT NULL, weave_ref TEXT NOT NULL, call_id TEXT,
            feedback_type TEXT NOT NULL, creator TEXT, created_at INTEGER NOT NULL, body TEXT NOT NULL,
            UNIQUE (project, id))""",
        "CREATE INDEX feedback_by_ref ON feedback (project, weave_ref)",
        "CREATE INDEX feedback_by_call ON feedback (project, call_id) WHERE call_id IS NOT NULL",
        """CREATE TABLE costs (
            seq INTEGER PRIMARY KEY,
            project INTEGER NOT NULL, id TEXT NOT NULL, llm_id TEXT NOT NULL,
            effective_date INTEGER NOT NULL, body TEXT NOT NULL,
            UNIQUE (project, id))""",
        "CREATE INDEX costs_by_model ON costs (project, llm_id, effective_date)",
    ),
)

VERSION = len(MIGRATIONS)
_TABLES = frozenset(re.findall(r"CREATE TABLE (\w+)", " ".join(chain.from_iterable(MIGRATIONS[:VERSION]))))


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Upgrade the file to the newest schema in one transaction. An unknown file stays unchanged.

    Raises:
        DamagedTracesError: The file is not a trace store.
        NewerTracesError: The file was written by a newer program.
        sqlite3.DatabaseError: The file is damaged.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        if tables and owner != APPLICATION_ID:
            raise DamagedTracesError(f"{path!r} is not a trace store of personaagent; choose another file")
        if version > VERSION:
            raise NewerTracesError(
                f"{path!r} has trace schema {version}; this version supports up to {VERSION}; "
                "upgrade personaagent"
            )
        if version < 0 or bool(version) != bool(tables):
            raise sqlite3.DatabaseError("the header of the file is damaged")
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        if version < VERSION:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names >= _TABLES:
            raise sqlite3.DatabaseError("tables are missing")
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
