"""What a method may see of a data set: one user's history, and nothing that is newer than the queries.

This is the only place where data reaches a method. Of other users it hands on counts of labels or
ratings, never a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from eval.contracts import EvalUser, Query, Subject
from eval.records import QueryRecord
from program.answers import Text
from program.errors import DataError
from program.task import Task


def survey(data: Iterable[EvalUser], task: Task) -> tuple[list[QueryRecord], Counter[str]]:
    """Return all queries, and how often all histories together give each label or rating."""
    queries: list[QueryRecord] = []
    responses: Counter[str] = Counter()
    for user in data:
        queries += [QueryRecord(user_id=user.user_id, query_id=q.id, gold=q.gold) for q in user.queries]
        responses.update(_responses(user, task))
    return queries, responses


def _responses(user: EvalUser, task: Task) -> Iterator[str]:
    return iter(()) if isinstance(task.response_type, Text) else (i.response for i in user.history)


def subjects(
    data: Iterable[EvalUser], task: Task, seed: int, responses: Counter[str]
) -> Iterator[tuple[Subject, Sequence[Query]]]:
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
        others = responses - Counter(_responses(user, task))
        yield (
            Subject(user_id=user.user_id, task=task, history=user.history, seed=seed, others=others),
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
