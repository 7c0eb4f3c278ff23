"""What one attempt at an alignment adds to the user's costs, so that no call counts twice or never."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from optimizers.config import AlignmentConfig
from program.store import UserStore
from program.usage import Usage, UsageTracker, current_tracker


class Spending:
    """Counts what an attempt pays.

    A replayed call was paid by an earlier attempt. If that one failed, the store has its cost already; if it
    was killed, nobody has recorded it, and the attempt that finishes the work does.

    Args:
        opened: What opening the session cost.

    Attributes:
        tracker: Counts the calls of the alignment itself that this attempt pays.
    """

    def __init__(self, opened: UsageTracker) -> None:
        self._opened = opened
        self.tracker = UsageTracker(parent=current_tracker())

    def total(self) -> Usage:
        """Return what this attempt paid."""
        return _sum([self._opened.total(), self.tracker.total()])

    def of_finished(
        self, whole: Mapping[str, Usage], store: UserStore, user_id: str, config: AlignmentConfig
    ) -> Usage:
        """Return what this attempt paid, with what killed attempts at the same work paid.

        Args:
            whole: What the whole work cost by stage, replayed calls included.
            store: Has the attempts that failed.
            user_id: The user.
            config: The settings of the work.
        """
        replayed = _minus(_sum(whole.values()), self.tracker.total())
        if not replayed.calls:
            return self.total()
        return _sum([self.total(), _minus(replayed, _recorded(store, user_id, config))])


def _recorded(store: UserStore, user_id: str, config: AlignmentConfig) -> Usage:
    """Return what the store has of failed attempts since the last alignment that ended well."""
    settings = json.loads(json.dumps(config.as_dict()))
    usages: list[Usage] = []
    for row in store.alignments(user_id)[::-1]:
        if row.status == "done":
            break
        if row.status == "failed" and row.config == settings:
            usages += [Usage(**used) for used in row.record.get("usage", {}).values()]
    return _sum(usages)


def _sum(usages: Iterable[Usage]) -> Usage:
    total = Usage()
    for usage in usages:
        total.add(usage)
    return total


def _minus(whole: Usage, part: Usage) -> Usage:
    return Usage(**{name: max(0, value - getattr(part, name)) for name, value in vars(whole).items()})
