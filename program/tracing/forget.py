"""Deletes everything about one user from the local traces."""

from __future__ import annotations

from pathlib import Path

from program.side_files import files_set_aside
from program.store import UserStore
from program.tracing.content import ContentPolicy, installation_key
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, store_path


def erase_traces(store: UserStore, user_id: str, home: Path, *, whole: bool) -> int:
    """Delete a user's traces: the `program.store.erasers.Eraser` of this package."""
    return forget_user(home, user_id)


def forget_user(home: Path, user_id: str) -> int:
    """Delete a user's calls, personas and interactions; return the number of calls deleted.

    Rewrites the trace file, so the time grows with its size. Trace files that were set aside because
    of damage are deleted: nothing can be found in them. Does not reach exported files or traces sent
    to W&B.

    Args:
        home: The data directory. Returns 0 if it has no traces.
        user_id: The real id, even if the traces hold a pseudonym.

    Raises:
        StoreError: The trace file cannot be opened.
    """
    path = store_path(home)
    for damaged in files_set_aside(path):
        damaged.unlink(missing_ok=True)
    if not path.exists():
        return 0
    pseudonym = ContentPolicy(content="hash", key=installation_key(home)).pseudonym(user_id)
    store = TraceStore(path)
    try:
        objects = [f"{kind}-{pseudonym}" for kind in ("persona", "interactions")]
        return store.forget(LOCAL_PROJECT, [user_id, pseudonym], objects)
    finally:
        store.close()
