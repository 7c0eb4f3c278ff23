"""Which users come first, and who is done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

import dspy

from optimizers.config import AlignmentConfig
from program.store import UserStore
from program.store.records import AlignmentRow

_NEVER = datetime.min.replace(tzinfo=timezone.utc)


def longest_waiting_first(store: UserStore, user_ids: Iterable[str]) -> list[str]:
    """Return the users by when they were last tried: never, long ago, lately; equal ones stay in order.

    Users without new interactions come last. A budget that ends early then serves others the next time.
    """
    tries = store.last_tries(user_ids)

    def wait(user_id: str) -> tuple[bool, datetime]:
        user, last_try = tries[user_id]
        return not user.stale, last_try or _NEVER

    return sorted(tries, key=wait)


def finished(
    store: UserStore, user_id: str, config: AlignmentConfig, prompt_model: Any
) -> AlignmentRow | None:
    """Return the alignment that has done this work already; ``None`` if there is something to do.

    It has the same settings and models, no interaction came since, and nobody changed the persona since.
    """
    if store.user(user_id).stale:
        return None
    row, head = store.latest_alignment(user_id), store.persona(user_id)
    if row is None or head is None:
        return None
    if head.alignment_id != row.id and head.created_at > row.started_at:
        return None
    lm = dspy.settings.lm
    models = (str(lm.model), str((prompt_model or lm).model))
    same_models = (row.record.get("model"), row.record.get("prompt_model")) == models
    same_config = row.config == json.loads(json.dumps(config.as_dict()))
    return row if same_models and same_config else None
