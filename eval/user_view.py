"""What a method may see of a data set: one user's history, and nothing that is newer than the queries.

This is the only place where data reaches a method. Of other users it hands on counts of labels or
ratings, never a text.
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
    """When all histories together gave each label or rating: times in ascending order.

    Empty where responses are text.
    """

    times: Mapping[str, Sequence[datetime]]

    def of_others(self, user: EvalUser) -> Counter[str]:
        """Return the counts without ``user``'s own, and without what is not older than its queries."""
        asked = min((query.timestamp for query in user.queries if query.timestamp), default=_NEVER)
        own = Counter(i.response for i in user.history if (i.timestamp or _UNDATED) < asked)
        return Counter({r: bisect_left(times, asked) for r, times in self.times.items()}) - own


def survey(data: Iterable[EvalUser], task: Task) -> tuple[list[QueryRecord], Responses]:
    """Return all queries, and what all histories together answer."""
    queries: list[QueryRecord] = []
    times: dict[str, list[datetime]] = {}
    counted = not isinstance(task.response_type, Text)
    for user in data:
        queries += [QueryRecord(user_id=user.user_id, query_id=q.id, gold=q.gold) for q in user.queries]
        for item in user.history if counted else ():
            times.setdefault(item.response, []).append(item.timestamp or _UNDATED)
    return queries, Responses({response: sorted(found) for response, found in times.items()})


def user_views(
    data: Iterable[EvalUser], task: Task, seed: int, responses: Responses
) -> Iterator[tuple[UserView, Sequence[Query]]]:
    """Yield each user as methods may see it, and its queries.

    Args:
        data: The users.
        task: What they are asked.
        seed: Of everything random.
        responses: Of all users together, from `survey`.

    Raises:
        DataError: A history is not older than its queries.
    """
    for user in data:
        _check_time(user)
        others = responses.of_others(user)
        yield (
            UserView(user_id=user.user_id, task=task, history=user.history, seed=seed, others=others),
            user.queries,
        )


def _check_time(user: EvalUser) -> None:
    """Refuse a history that is not older than the queries; the loaders never make one."""
    asked = {query.id for query in user.queries}
    first = min((query.timestamp for query in user.queries if query.timestamp), default=None)
    for number, item in enumerate(user.history):
        newer = first is not None and item.timestamp is not None and item.timestamp > first
        if item.user_id != user.user_id or item.id in asked or newer:
            raise DataError(
                f"history item {number} of a user is one of its queries, newer than them, or another user's"
            )
