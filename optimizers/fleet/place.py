"""The names that an alignment has in tables and locks: by store and user, without their texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy

from optimizers.config import AlignmentConfig
from program.store import UserStore
from program.tools import make_tools

FILE = "fleet.db"
"""The tables of pieces of a store that is a file, in the data directory."""

_LATEST = 64
"""Latest interactions that tell two states of a user apart; the number of all of them counts too."""


def is_sqlite(store: UserStore) -> bool:
    """Return whether the store is a file."""
    return store._database.is_sqlite


def server_url(store: UserStore) -> str:
    """Return the URL of a store on a database server, with its password."""
    return store._database.engine.url.render_as_string(hide_password=False)


def location(store: UserStore) -> str:
    """Return the location that opens the store again: a path, or a URL with its password."""
    return store._database.name if is_sqlite(store) else server_url(store)


def store_name(store: UserStore) -> str:
    """Return a name of the store that every process that opens it agrees on.

    A database on a server has one store, which each host may reach by another URL.
    """
    return str(Path(store._database.name).resolve()) if is_sqlite(store) else "a server"


def user_prefix(store: UserStore, user_id: str) -> str:
    """Return the start of the ids of all workflows of a user; no other user's start with it."""
    return f"{digest(store_name(store))[:12]}-{digest(user_id)[:24]}-"


def task_prefix(store: UserStore, user_id: str = "") -> str:
    """Return the start of the ids of all queued tasks of a user, or of the store."""
    whole = f"task-{digest(store_name(store))[:12]}-"
    return f"{whole}{digest(user_id)[:24]}-" if user_id else whole


def lock_number(store: UserStore, user_id: str) -> int:
    """Return the number of a user's lock, from 0 to 2^62 - 1."""
    return int(digest(store_name(store), user_id)[:16], 16) >> 2


def work_key(store: UserStore, user_id: str, config: AlignmentConfig, options: Mapping[str, Any]) -> str:
    """Return a hash of everything that an alignment would learn from.

    Args:
        store: The user's store.
        user_id: The user.
        config: The settings.
        options: The other arguments of `optimizers.aalign_user`.
    """
    head = store.persona(user_id)
    lm = dspy.settings.lm
    tools = make_tools(options["tools"], Path(), wikipedia=options["wikipedia"])
    return digest(
        [item.id for item in store.interactions(user_id, latest=_LATEST)],
        store.user(user_id).interactions,
        # An alignment itself writes the first one.
        0 if head is None or head.source == "initial" else head.version,
        config.as_dict(),
        str(lm.model),
        str((options["prompt_model"] or lm).model),
        list(options["negatives"]),
        list(tools.tools),
        options["settings"],
    )[:24]


def digest(*parts: Any) -> str:
    """Return a hash of JSON data; other values count by their representation."""
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
