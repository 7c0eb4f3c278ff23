"""One user for all records of one user id (the time split may ask a user more than once)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from eval.data.raw import RawUser


def merged(records: Iterator[RawUser], counts: Mapping[str, int]) -> Iterator[RawUser]:
    """Yield each user once, at the place of the user's last record.

    The merged history holds what every one of the user's profiles holds, so that it is older than
    all of the queries. ``counts`` says how many records each user id has (none given: one); only
    records of users with several are kept waiting.
    """
    waiting: dict[str, list[RawUser]] = {}
    for record in records:
        count = counts.get(record.user_id, 1)
        if count == 1:
            yield record
            continue
        parts = waiting.setdefault(record.user_id, [])
        parts.append(record)
        if len(parts) == count:
            yield _merge(waiting.pop(record.user_id))


def _merge(parts: Sequence[RawUser]) -> RawUser:
    common = set.intersection(*({str(item.get("id")) for item in part.profile} for part in parts))
    return replace(
        parts[0],
        profile=[item for item in parts[0].profile if str(item.get("id")) in common],
        queries=[query for part in parts for query in part.queries],
    )
