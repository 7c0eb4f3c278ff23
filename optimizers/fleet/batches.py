"""Batches: what one `align` command asked for, and what was paid for it by every process that worked on it.

The table is no queue: it keeps the settings that workers need, and one counter for the budget.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from optimizers.fleet.batch import Batch
from optimizers.fleet.place import digest
from program.errors import StoreUnavailableError
from program.usage import Usage

_KEPT = 200
"""Closed batches that are kept, newest first."""


@dataclass(frozen=True, kw_only=True)
class Granted:
    """What a reservation got.

    Attributes:
        calls: Granted calls, 0 or more.
        paid: What the batch has paid and reserved until now.
    """

    calls: int
    paid: Usage


@contextmanager
def errors_reported() -> Iterator[None]:
    """Raise a failure of the database inside the block as `StoreUnavailableError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreUnavailableError(
            f"the tables of durable alignments cannot be used ({type(error).__name__}): check the disk and "
            "the database; the next run goes on from what is stored"
        ) from error


class Batches:
    """The batches of a store.

    Args:
        engine: The database of the durable pieces.
        schema: Its schema; ``None`` on SQLite.
        store: The name of the store.
    """

    def __init__(self, engine: Engine, schema: str | None, store: str) -> None:
        self._engine = engine
        self._store = digest(store)[:12]
        self._table = Table(
            "pa_batches",
            MetaData(schema=schema),
            Column("id", String(12), primary_key=True),
            Column("store", String(12), nullable=False),
            # The same command again goes on with a batch that has not ended.
            Column("work", String(64), nullable=False),
            Column("opened_at", String(32), nullable=False),
            Column("ended_at", String(32), nullable=False),
            Column("settings", Text, nullable=False),
            Column("calls", Integer, nullable=False),
            Column("tokens", Integer, nullable=False),
            Column("usd", Float, nullable=False),
            Column("unpriced", Integer, nullable=False),
        )
        with engine.begin() as connection:
            self._table.create(connection, checkfirst=True)

    def open(self, batch: Batch) -> tuple[str, Usage]:
        """Return the id of a batch and what was paid for it: of one that did not end, else of a new one."""
        with self._engine.begin() as connection:
            row = self._unended(connection, batch)
            if row is not None:
                changed = update(self._table).where(self._table.c.id == row.id)
                connection.execute(changed.values(settings=json.dumps(batch.as_dict())))
                return str(row.id), _usage(row)
            batch_id = uuid4().hex[:12]
            self._insert(connection, batch_id, batch, ended_at="")
            self._prune(connection)
            return batch_id, Usage()

    def paid_before(self, batch: Batch) -> Usage:
        """Return what was paid for a batch that did not end, by the same command."""
        with self._engine.connect() as connection:
            row = self._unended(connection, batch)
        return Usage() if row is None else _usage(row)

    def _unended(self, connection: Connection, batch: Batch) -> Any:
        table, work = self._table, digest(batch.work())
        return connection.execute(
            select(table)
            .where(table.c.store == self._store, table.c.work == work, table.c.ended_at == "")
            .order_by(table.c.opened_at.desc())
            .limit(1)
        ).first()

    def add(self, batch_id: str, batch: Batch) -> None:
        """Add a batch that no command waits for; do nothing if there is one with this id."""
        with self._engine.begin() as connection:
            if connection.scalar(select(self._table.c.id).where(self._table.c.id == batch_id)) is None:
                self._insert(connection, batch_id, batch, ended_at=_now())
                self._prune(connection)

    def _insert(self, connection: Connection, batch_id: str, batch: Batch, ended_at: str) -> None:
        values = {
            "id": batch_id,
            "store": self._store,
            "work": digest(batch.work()),
            "opened_at": _now(),
            "ended_at": ended_at,
            "settings": json.dumps(batch.as_dict()),
            "calls": 0,
            "tokens": 0,
            "usd": 0.0,
            "unpriced": 0,
        }
        connection.execute(insert(self._table), values)

    def end(self, batch_id: str) -> None:
        """End a batch: the same command then begins another one, with the whole budget."""
        table = self._table
        with self._engine.begin() as connection:
            connection.execute(update(table).where(table.c.id == batch_id).values(ended_at=_now()))

    def read(self, batch_id: str) -> Batch | None:
        """Return the settings of a batch; ``None`` if there is none with this id."""
        table = self._table
        with self._engine.connect() as connection:
            text = connection.scalar(select(table.c.settings).where(table.c.id == batch_id))
        return None if text is None else Batch.from_dict(json.loads(text))

    def latest(self) -> Batch | None:
        """Return the settings of the newest batch of the store."""
        table = self._table
        query = select(table.c.settings).where(table.c.store == self._store)
        with self._engine.connect() as connection:
            text = connection.scalar(query.order_by(table.c.opened_at.desc()).limit(1))
        return None if text is None else Batch.from_dict(json.loads(text))

    def latest_paid(self) -> Usage:
        """Return what was paid for the newest batch of the store."""
        table = self._table
        query = select(table).where(table.c.store == self._store).order_by(table.c.opened_at.desc())
        with self._engine.connect() as connection:
            row = connection.execute(query.limit(1)).first()
        return Usage() if row is None else _usage(row)

    def paid(self, batch_id: str) -> Usage:
        """Return what was paid for a batch, by all processes until now."""
        table = self._table
        with self._engine.connect() as connection:
            row = connection.execute(select(table).where(table.c.id == batch_id)).first()
        return Usage() if row is None else _usage(row)

    def spend(self, batch_id: str, paid: Usage, *, wants: int = 0, most: int | None = None) -> Granted:
        """Add what was paid, and reserve calls, at most until ``most`` of them in all; one transaction.

        Args:
            batch_id: The batch.
            paid: What became known since; its ``calls`` are added to the reserved ones, and may be negative.
            wants: Calls to reserve.
            most: The limit of calls; ``None`` for no limit.

        Raises:
            StoreUnavailableError: The database failed; nothing was added.
        """
        table = self._table
        mine = update(table).where(table.c.id == batch_id)
        with errors_reported(), self._engine.begin() as connection:
            row = connection.execute(
                mine.values(
                    calls=table.c.calls + paid.calls + wants,
                    tokens=table.c.tokens + paid.tokens,
                    usd=table.c.usd + paid.usd,
                    unpriced=table.c.unpriced + paid.unpriced,
                ).returning(table)
            ).one()
            refused = 0 if most is None else min(wants, max(0, row.calls - most))
            if refused:
                row = connection.execute(mine.values(calls=table.c.calls - refused).returning(table)).one()
        return Granted(calls=wants - refused, paid=_usage(row))

    def _prune(self, connection: Connection) -> None:
        table = self._table
        ended = (
            select(table.c.id)
            .where(table.c.store == self._store, table.c.ended_at != "")
            .order_by(table.c.ended_at.desc())
        )
        old = connection.scalars(ended.offset(_KEPT)).all()
        if old:
            connection.execute(delete(table).where(table.c.id.in_(old)))


def _usage(row: Any) -> Usage:
    return Usage(calls=row.calls, input_tokens=row.tokens, usd=row.usd, unpriced=row.unpriced)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
