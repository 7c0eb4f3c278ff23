"""The local trace store: Weave's wire API over one SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from program.tracing.server import overview
from program.tracing.server.call_queries import count_calls, query_calls
from program.tracing.server.calls import interrupt_open, write_end, write_start
from program.tracing.server.database import Database, name_id
from program.tracing.server.delete_user import delete_user
from program.tracing.server.prune import Pruned, is_idle, prune
from program.tracing.server.references import value_of
from program.tracing.server.routes import Response, handle


class TraceStore:
    """An open trace file. Threads may share the object; processes may share the file.

    Args:
        path: The SQLite file; created with mode 0600 if it is missing.

    Raises:
        StoreError: The file cannot be opened, is not a trace store, or is too new.

    Example:
        >>> store = TraceStore(Path("traces.db"))
        >>> store.call_start({
        ...     "project_id": "local/demo", "id": "c1", "trace_id": "t1", "op_name": "ask",
        ...     "started_at": 0.0, "inputs": {"query": "Which tea?"},
        ... })
        >>> store.call_end({"project_id": "local/demo", "id": "c1", "ended_at": 1.5, "output": "Mint."})
        >>> [(call["inputs"]["query"], call["output"]) for call in store.calls("local/demo")]
        [('Which tea?', 'Mint.')]
        >>> store.close()
    """

    def __init__(self, path: Path) -> None:
        self.database = Database(path)

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.database.path

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Answer a request of Weave's client; see `program.tracing.server.routes.handle`."""
        return handle(self.database, method, path, headers, body)

    def call_start(self, start: Mapping[str, Any]) -> None:
        """Store the start of a call. It is committed when this returns."""
        with self.database.writing() as db:
            write_start(self.database, db, start)

    def call_end(self, end: Mapping[str, Any]) -> None:
        """Store the end of a call. It is committed when this returns."""
        with self.database.writing() as db:
            write_end(self.database, db, end)

    def calls(self, project: str, **request: Any) -> list[dict[str, Any]]:
        """Return one page of calls. Keywords are the fields of ``/calls/stream_query``."""
        with self.database.reading() as db:
            return query_calls(db, {"project_id": project, **request})

    def count(self, project: str, **request: Any) -> int:
        """Return how many calls match. Keywords are the fields of ``/calls/query_stats``."""
        with self.database.reading() as db:
            return count_calls(db, {"project_id": project, **request})

    def trace_ids(self, project: str, prefix: str) -> list[str]:
        """Return the trace ids of calls whose id starts with ``prefix``: at most two of them."""
        with self.database.reading() as db:
            rows = db.execute(
                "SELECT DISTINCT trace_id FROM calls WHERE project = ? AND id >= ? AND id < ? "
                "AND started_at IS NOT NULL LIMIT 2",
                (name_id(db, project), prefix, prefix + "\U0010ffff"),
            ).fetchall()
        return [trace_id for (trace_id,) in rows]

    def value(self, ref: str) -> Any:
        """Return the object that a Weave reference points at; ``None`` if there is none."""
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
        """Delete everything about one user and rewrite the file; return the number of calls deleted.

        The time grows with the size of the file. See `program.tracing.server.delete_user.delete_user`.
        """
        with self.database.writing() as db:
            deleted = delete_user(db, project, user_ids, object_ids)
        self.database.erase_deleted()
        return deleted

    def prune(
        self,
        project: str,
        *,
        before: int | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
        rewrite: bool = False,
    ) -> Pruned:
        """Remove old traces; see `program.tracing.server.prune.prune`.

        Args:
            project: ``entity/project``.
            before: Remove traces that ended before this time, in microseconds since 1970.
            max_bytes: Then remove the oldest ones until the file holds no more than this.
            dry_run: Remove nothing.
            rewrite: Also rewrite the file, so that it becomes smaller, if nothing is in progress. Other
                processes cannot write meanwhile.

        Example:
            >>> store = TraceStore(Path("traces.db"))
            >>> for number in range(3):
            ...     call = {"project_id": "local/demo", "id": f"c{number}", "trace_id": f"t{number}"}
            ...     store.call_start({**call, "op_name": "ask", "started_at": float(number)})
            ...     if number < 2:
            ...         store.call_end({**call, "ended_at": float(number), "output": "Mint."})
            >>> store.prune("local/demo", before=1_500_000).traces
            2
            >>> [call["id"] for call in store.calls("local/demo")]
            ['c2']
            >>> store.close()
        """
        pruned = prune(self.database, project, before=before, max_bytes=max_bytes, dry_run=dry_run)
        if rewrite and pruned.traces and not dry_run and is_idle(self.database, project):
            self.database.erase_deleted()
        return pruned

    def interrupt_dead(self, project: str, is_dead: Callable[[str], bool]) -> int:
        """End the open calls of dead processes; see `program.tracing.server.calls.interrupt_open`."""
        with self.database.writing() as db:
            return interrupt_open(db, project, is_dead)

    def close(self) -> None:
        """Close the file."""
        self.database.close()
