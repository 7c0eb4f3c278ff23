"""The local trace store: Weave's wire API over one SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from program.tracing.server import overview
from program.tracing.server.calls import count_calls, interrupt_open, query_calls, write_end, write_start
from program.tracing.server.database import Database, known_name
from program.tracing.server.forget import forget
from program.tracing.server.objects import value_of
from program.tracing.server.routes import Response, handle


class TraceStore:
    """An open trace file. Safe to share between threads and, as a file, between processes.

    Args:
        path: The SQLite file; made with mode 0600 where it is missing.

    Raises:
        StoreError: The file cannot be opened, is not a trace store, or is too new.
    """

    def __init__(self, path: Path) -> None:
        self.database = Database(path)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.database.path

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Answer one request of Weave's client; see `program.tracing.server.routes.handle`."""
        return handle(self.database, method, path, headers, body)

    def call_start(self, start: Mapping[str, Any]) -> None:
        """Store the first half of a call; on disk when this returns."""
        with self.database.writing() as db:
            write_start(self.database, db, start)

    def call_end(self, end: Mapping[str, Any]) -> None:
        """Store the second half of a call; on disk when this returns."""
        with self.database.writing() as db:
            write_end(self.database, db, end)

    def calls(self, project: str, **request: Any) -> list[dict[str, Any]]:
        """Return one page of calls; keywords as in ``/calls/stream_query``."""
        with self.database.reading() as db:
            return query_calls(db, {"project_id": project, **request})

    def count(self, project: str, **request: Any) -> int:
        """Return how many calls match; keywords as in ``/calls/query_stats``."""
        with self.database.reading() as db:
            return count_calls(db, {"project_id": project, **request})

    def traces_like(self, project: str, prefix: str) -> list[str]:
        """Return at most two ids of traces that, or a call of which, start with ``prefix``."""
        with self.database.reading() as db:
            rows = db.execute(
                "SELECT DISTINCT trace_id FROM calls WHERE project = ? AND id >= ? AND id < ? "
                "AND started_at IS NOT NULL LIMIT 2",
                (known_name(db, project), prefix, prefix + "\U0010ffff"),
            ).fetchall()
        return [trace_id for (trace_id,) in rows]

    def value(self, ref: str) -> Any:
        """Return what a Weave reference points at; ``None`` where nothing is."""
        with self.database.reading() as db:
            return value_of(db, ref)

    def users(self, project: str, **page: Any) -> list[dict[str, Any]]:
        """Return one page of users; see `program.tracing.server.overview.users`."""
        with self.database.reading() as db:
            return overview.users(db, project, **page)

    def runs(self, project: str, **page: Any) -> list[dict[str, Any]]:
        """Return one page of runs; see `program.tracing.server.overview.runs`."""
        with self.database.reading() as db:
            return overview.runs(db, project, **page)

    def forget(self, project: str, user_ids: Collection[str], object_ids: Collection[str] = ()) -> int:
        """Delete everything of one user and rewrite the file so that no byte of it is left.

        Takes time in proportion to the whole file. See `program.tracing.server.forget.forget`.
        """
        with self.database.writing() as db:
            gone = forget(db, project, user_ids, object_ids)
        self.database.erase_deleted()
        return gone

    def interrupt_dead(self, project: str, is_dead: Callable[[str], bool]) -> int:
        """End the open calls of dead processes; see `program.tracing.server.calls.interrupt_open`."""
        with self.database.writing() as db:
            return interrupt_open(db, project, is_dead)

    def close(self) -> None:
        """Close the file."""
        self.database.close()
