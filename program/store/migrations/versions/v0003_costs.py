"""Costs by user and month, pinned versions, and since when a user is stale."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "v0003"
down_revision = "v0002"
branch_labels = None
depends_on = None

_COUNTS = ("calls", "input_tokens", "cached_tokens", "output_tokens", "unpriced", "cache_hits")
_PAGE = 200


def upgrade() -> None:
    """Add two columns and a table, and fill them. Written out, because `schema` will move on."""
    op.add_column("pa_users", sa.Column("pinned", sa.Integer, nullable=True))
    op.add_column("pa_users", sa.Column("stale_since", sa.String(32), nullable=False, server_default=""))
    # The earliest time that it can be: arrivals were not dated.
    op.execute(
        "UPDATE pa_users SET stale_since = COALESCE((SELECT MAX(ended_at) FROM pa_alignments a "
        "WHERE a.user_id = pa_users.user_id AND a.status = 'done'), created_at) "
        "WHERE interactions > settled"
    )
    costs = op.create_table(
        "pa_costs",
        sa.Column(
            "user_id", sa.String(256), sa.ForeignKey("pa_users.user_id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("alignments", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("usd", sa.Float, nullable=False),
        sa.Column("unpriced", sa.BigInteger, nullable=False),
        sa.Column("cache_hits", sa.BigInteger, nullable=False),
        sa.Column("scored", sa.Integer, nullable=False),
        sa.Column("score_sum", sa.Float, nullable=False),
    )
    connection = op.get_bind()
    for row in _costs(connection):
        connection.execute(sa.insert(costs), row)


def _costs(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    """Yield one row for each user and month with an alignment, from the records that are stored."""
    for user_id, rows in groupby(_ended_runs(connection), key=lambda row: row.user_id):
        months: dict[str, dict[str, Any]] = {}
        for row in rows:
            total = months.setdefault(str(row.ended_at)[:7], _nothing())
            total["failed" if row.status == "failed" else "alignments"] += 1
            _add_record(total, _object(row.record))
        for month, total in months.items():
            yield {"user_id": user_id, "month": month, **total}


def _ended_runs(connection: sa.Connection) -> Iterator[sa.Row[Any]]:
    """Yield the alignments that ended, user by user, with some in memory at once."""
    names = ("user_id", "id", "status", "ended_at", "record")
    runs = sa.table("pa_alignments", *(sa.column(name) for name in names))
    query = (
        sa.select(runs.c.user_id, runs.c.id, runs.c.status, runs.c.ended_at)
        .add_columns(sa.cast(runs.c.record, sa.Text).label("record"))
        .where(runs.c.status.in_(("done", "failed")))
        .order_by(runs.c.user_id, runs.c.id)
        .limit(_PAGE)
    )
    page = list(connection.execute(query))
    while page:
        yield from page
        last = sa.tuple_(sa.literal(page[-1].user_id), sa.literal(page[-1].id))
        page = list(connection.execute(query.where(sa.tuple_(runs.c.user_id, runs.c.id) > last)))


def _nothing() -> dict[str, Any]:
    names = ("alignments", "failed", "answers", *_COUNTS, "scored")
    return {**dict.fromkeys(names, 0), "usd": 0.0, "score_sum": 0.0}


def _object(text: object) -> Mapping[str, Any]:
    """Return the record; an unreadable one costs nothing, and is still refused where it is read."""
    try:
        data = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        data = None
    return data if isinstance(data, dict) else {}


def _add_record(total: dict[str, Any], record: Mapping[str, Any]) -> None:
    for usage in _values(record.get("usage")):
        if isinstance(usage, dict):
            for name in _COUNTS:
                total[name] += int(_number(usage.get(name)))
            total["usd"] += float(_number(usage.get("usd")))
    for step in _values(record.get("steps")):
        for rollout in _values(step.get("simulations") if isinstance(step, dict) else None):
            score = rollout.get("score") if isinstance(rollout, dict) else None
            if isinstance(score, int | float):
                total["scored"] += 1
                total["score_sum"] += float(score)


def _values(data: object) -> list[Any]:
    if isinstance(data, dict):
        return list(data.values())
    return data if isinstance(data, list) else []


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and 0 <= value < 2**53 else 0
