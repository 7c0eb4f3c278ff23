"""Everything that is held about a person, as one JSON document for the person to take along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from program.home import home as default_home
from program.store import UserStore
from program.store.exported import SCHEMA, plain, stored_data

NOT_INCLUDED = (
    "cached answers of models: they do not say whom they are about",
    "steps of alignments that the fleet has not finished, and run folders of evaluations",
    "what was sent elsewhere: traces at W&B, backups, files that were exported before",
)
"""What is kept or was copied, but is not in an export."""


def export_user(
    store: UserStore, user_id: str, *, home: Path | None = None, traces: bool = True
) -> dict[str, Any]:
    """Return everything held about a user as JSON data; `import_users` reads it from a file.

    The fields: ``schema``; ``user``, ``interactions`` (in time order), ``profile``, ``personas`` (every
    version with the parts that say what each line rests on, corrections among them), ``alignments`` with
    their steps, ``costs`` by month and ``audit`` of the store; ``keys`` of the server, without secrets;
    ``traces``, the calls and the texts that they name; ``not_included``, in words.

    An import carries the user, the interactions, the profile and the persona versions.

    Args:
        store: The user's store.
        user_id: The user.
        home: The data directory, for traces and keys; ``None`` for `program.home.home`.
        traces: Whether to read local traces, which may be large.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        StoreError: The store or the trace file cannot be read.

    Example:
        >>> import json
        >>> from program import import_users
        >>> with UserStore("users.db") as store, UserStore("other.db") as other:
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.observe("ana", query="Which tea?", response="Mint.")
        ...     exported = export_user(store, "ana")
        ...     _ = Path("ana.json").write_text(json.dumps(exported))
        ...     report = import_users(other, "ana.json")
        ...     export_user(other, "ana")["interactions"] == exported["interactions"], report.new
        (True, 1)
    """
    from program.serve.keys import Keys
    from program.tracing.held import traces_of

    home = home or default_home()
    keys = [vars(key) for key in Keys(home).all() if key.user_id == user_id]
    data: dict[str, Any] = plain(
        {
            "schema": SCHEMA,
            **stored_data(store, user_id),
            "keys": keys,
            "traces": traces_of(home, user_id) if traces else None,
            "not_included": [*NOT_INCLUDED, *([] if traces else ["local traces: not asked for"])],
        }
    )
    return data
