"""Merges the records of one user. LaMP's time split has one record for each query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from eval.data.raw import RawUser


def merge_users(records: Iterator[RawUser], counts: Mapping[str, int]) -> Iterator[RawUser]:
    """Yield each user once, at the position of the user's last record.

    The merged history is the intersection of the user's profiles, so that it is older than all of
    the queries. Only records of users with several records are held in memory.

    Args:
        records: One for each query, or each user.
        counts: Number of records by user id; a missing id means one record.
    """
    pending: dict[str, list[RawUser]] = {}
    for record in records:
        count = counts.get(record.user_id, 1)
        if count == 1:
            yield record
            continue
        parts = pending.setdefault(record.user_id, [])
        parts.append(record)
        if len(parts) == count:
            yield _merge(pending.pop(record.user_id))


def _merge(parts: Sequence[RawUser]) -> RawUser:
    common = set.intersection(*({str(item.get("id")) for item in part.profile} for part in parts))
    return replace(
        parts[0],
        profile=[item for item in parts[0].profile if str(item.get("id")) in common],
        queries=[query for part in parts for query in part.queries],
    )
