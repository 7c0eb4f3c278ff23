"""Reads what the local traces hold about one user, for an export."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

from program.tracing.content import ContentPolicy, installation_key
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import store_path
from program.tracing.view.reader import export_calls

_OBJECT = re.compile(r"weave:///[^/\s]+/[^/\s]+/object/(?:persona|interactions)-[^/\s\"']+")


def traces_of(home: Path, user_id: str) -> dict[str, Any]:
    """Return a user's calls, oldest first, and the personas and interactions that they refer to.

    Args:
        home: The data directory. Nothing is created in one without traces.
        user_id: The real id, even if the traces hold a pseudonym.

    Raises:
        StoreError: The trace file cannot be opened.
    """
    path = store_path(home)
    if not path.exists():
        return {"calls": [], "objects": {}}
    pseudonym = ContentPolicy(content="hash", key=installation_key(home)).pseudonym(user_id)
    with closing(TraceStore(path)) as store:
        calls = [call for name in (user_id, pseudonym) for call in export_calls(store, user_id=name)]
        references = {ref for call in calls for ref in _OBJECT.findall(str(call))}
        return {"calls": calls, "objects": {ref: store.value(ref) for ref in sorted(references)}}
