"""The `pa_costs` table: what each user cost in each month, and how well the user's agent did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import NULLTYPE

from program.store.records import COUNTS, UserCost
from program.store.schema import costs

_KEYS = ("user_id", "month")
_SUMS = tuple(column.name for column in costs.columns if column.name not in _KEYS)


def add(connection: Connection, user_id: str, when: datetime, **amounts: float) -> None:
    """Add amounts to the user's month. The caller holds the user's lock.

    Args:
        connection: In a write transaction.
        user_id: The user.
        when: Decides the month.
        amounts: By column; those that are not named are 0.
    """
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {"user_id": user_id, "month": f"{when:%Y-%m}", **dict.fromkeys(_SUMS, 0), **amounts}
    new = insert(costs).values(row)
    changed = {name: costs.c[name] + new.excluded[name] for name in _SUMS if row[name]}
    connection.execute(new.on_conflict_do_update(index_elements=_KEYS, set_=changed or {"usd": costs.c.usd}))


def amounts(usage: Any) -> dict[str, float]:
    """Return the amounts of a `program.usage.Usage`."""
    return {name: getattr(usage, name) for name in COUNTS} | {"usd": float(usage.usd)}


def amounts_of_record(record: Mapping[str, Any]) -> dict[str, float]:
    """Return what the record of an alignment says that it cost; 0 for what it does not say."""
    total: dict[str, float] = dict.fromkeys((*COUNTS, "usd"), 0)
    for usage in record.get("usage", {}).values():
        for name in total:
            total[name] += usage.get(name, 0)
    return total


def scores_of_record(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the number and the sum of the scores of an alignment's rollouts."""
    scores = [
        rollout["score"]
        for step in record.get("steps", ())
        for rollout in step.get("simulations", ())
        if rollout.get("score") is not None
    ]
    return {"scored": len(scores), "score_sum": float(sum(scores))}


def of_user(connection: Connection, user_id: str) -> list[UserCost]:
    """Return the user's months, oldest first."""
    query = select(costs).where(costs.c.user_id == user_id).order_by(costs.c.month)
    return [_cost(row) for row in connection.execute(query)]


def by_month(connection: Connection) -> list[UserCost]:
    """Return the months of all users together, oldest first."""
    query = _sums(costs.c.month).group_by(costs.c.month).order_by(costs.c.month)
    return [_cost(row) for row in connection.execute(query)]


def page_by_user(connection: Connection, after: str, size: int) -> list[UserCost]:
    """Return at most ``size`` users after the id ``after``, in id order, each with all months together."""
    query = _sums(costs.c.user_id).where(costs.c.user_id > after).group_by(costs.c.user_id)
    return [_cost(row) for row in connection.execute(query.order_by(costs.c.user_id).limit(size))]


def total(parts: Sequence[UserCost] | Iterator[UserCost], user_id: str | None = None) -> UserCost:
    """Return costs added up."""
    sums: dict[str, Any] = {**dict.fromkeys(_SUMS, 0), "usd": 0.0, "score_sum": 0.0}
    for part in parts:
        for name in _SUMS:
            sums[name] += getattr(part, name)
    return UserCost(user_id=user_id, month=None, **sums)


def _sums(key: Any) -> Select[Any]:
    # PostgreSQL gives a sum of 64 bits as a decimal number, which the column's type would refuse.
    sums = (func.sum(costs.c[name], type_=NULLTYPE).label(name) for name in _SUMS)
    return select(key, *sums)


def _cost(row: Row[Any]) -> UserCost:
    values = row._mapping
    numbers = {
        name: float(values[name]) if name in ("usd", "score_sum") else int(values[name]) for name in _SUMS
    }
    return UserCost(user_id=values.get("user_id"), month=values.get("month"), **numbers)  # type: ignore[arg-type]
