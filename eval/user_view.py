"""Limits what a method sees of a data set: one user's history, and nothing newer than the queries.

Data reaches a method only through this module. Of other users it passes counts of labels or ratings,
never a text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from eval.contracts import EvalUser, Query, UserView
from eval.records import QueryRecord
from program.answers import Text
from program.errors import DataError
from program.task import Task

_UNDATED = datetime.min.replace(tzinfo=timezone.utc)
_NEVER = datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Responses:
    """The times at which all histories together gave each label or rating.

    Attributes:
        times: Label or rating to times, ascending; undated responses come first. Empty if responses
            are text.
    """

    times: Mapping[str, Sequence[datetime]]

    def count_others(self, user: EvalUser) -> Counter[str]:
        """Return the counts of all other users before the first query of ``user``."""
        first_query = min((query.timestamp for query in user.queries if query.timestamp), default=_NEVER)
        own = Counter(i.response for i in user.history if (i.timestamp or _UNDATED) < first_query)
        return Counter({r: bisect_left(times, first_query) for r, times in self.times.items()}) - own


def scan_users(data: Iterable[EvalUser], task: Task) -> tuple[list[QueryRecord], Responses]:
    """Return all queries of the data, and the responses of all histories."""
    queries: list[QueryRecord] = []
    times: dict[str, list[datetime]] = {}
    countable = not isinstance(task.response_type, Text)
    for user in data:
        queries += [QueryRecord(user_id=user.user_id, query_id=q.id, gold=q.gold) for q in user.queries]
        for item in user.history if countable else ():
            times.setdefault(item.response, []).append(item.timestamp or _UNDATED)
    return queries, Responses({response: sorted(unsorted) for response, unsorted in times.items()})


def user_views(
    data: Iterable[EvalUser], task: Task, seed: int, responses: Responses
) -> Iterator[tuple[UserView, Sequence[Query]]]:
    """Yield the view of each user, and the user's queries.

    Args:
        data: The users.
        task: The task of the run.
        seed: Seed of every random choice.
        responses: The responses of all histories, from `scan_users`.

    Raises:
        DataError: A history item is newer than a query, is itself a query, or belongs to another user.
    """
    for user in data:
        _check_history(user)
        others = responses.count_others(user)
        yield (
            UserView(user_id=user.user_id, task=task, history=user.history, seed=seed, others=others),
            user.queries,
        )


def with_others(
    views: Iterable[tuple[UserView, Sequence[Query]]],
) -> Iterator[tuple[UserView, Sequence[Query], UserView | None]]:
    """Add another user's view to each: the next user's, for the last one the one before, else ``None``."""
    held: tuple[UserView, Sequence[Query]] | None = None
    before: UserView | None = None
    for view, queries in views:
        if held is not None:
            yield (*held, view)
            before = held[0]
        held = view, queries
    if held is not None:
        yield (*held, before)


def _check_history(user: EvalUser) -> None:
    """Check that the history leaks nothing; our own loaders guarantee it."""
    query_ids = {query.id for query in user.queries}
    first_query = min((query.timestamp for query in user.queries if query.timestamp), default=_NEVER)
    for number, item in enumerate(user.history):
        newer = item.timestamp is not None and item.timestamp > first_query
        if item.user_id != user.user_id or item.id in query_ids or newer:
            raise DataError(
                f"history item {number} of a user is one of the user's queries, newer than a query, "
                "or another user's"
            )
