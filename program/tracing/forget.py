"""Forgetting a user: nothing of them stays in the local traces."""

from __future__ import annotations

from pathlib import Path

from program.tracing.content import ContentPolicy, installation_key
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, store_path


def forget_user(home: Path, user_id: str) -> int:
    """Delete a user's calls, personas and interactions from the local traces; return the calls deleted.

    The file is rewritten, which takes time in proportion to its size. Exported files and traces
    sent to W&B are not reached.

    Args:
        home: The data directory; without traces in it there is nothing to do.
        user_id: As the program knows the user, also where the traces hold a pseudonym.

    Raises:
        StoreError: The trace file cannot be opened.
    """
    path = store_path(home)
    if not path.exists():
        return 0
    pseudonym = ContentPolicy(content="hash", key=installation_key(home)).pseudonym(user_id)
    store = TraceStore(path)
    try:
        objects = [f"{kind}-{pseudonym}" for kind in ("persona", "interactions")]
        return store.forget(LOCAL_PROJECT, [user_id, pseudonym], objects)
    finally:
        store.close()
