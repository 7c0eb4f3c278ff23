"""What was asked in batches and what was answered, until the alignments have used it.

A batch is written before it is submitted, with the ids of its requests; texts of users are in answers alone.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from optimizers.fleet.batch_api import FILE
from optimizers.fleet.place import is_sqlite, server_url, user_prefix
from program.errors import StoreError
from program.side_files import make_private
from program.store import UserStore

_SCHEMA = "personaagent_batches"
_CHUNK = 500

T = TypeVar("T")
State = Literal["written", "sending", "sent"]

_metadata = sa.MetaData()
_batches = sa.Table(
    "batches",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("api", sa.String(16), nullable=False),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("remote_id", sa.Text),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    # What the provider had before: its newest batch, by which a batch that was submitted is found again.
    sa.Column("mark", sa.Text),
)
_requests = sa.Table(
    "requests",
    _metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("batch_id", sa.String(32), nullable=False, index=True),
    sa.Column("user_prefix", sa.String(64), nullable=False, index=True),
    sa.Column("status", sa.Integer),
    sa.Column("body", sa.Text),
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch that is not finished.

    Attributes:
        id: Our id, before the provider has given one.
        api: ``openai`` or ``anthropic``.
        base: The provider's address.
        state: ``written`` before anything is sent; ``sending`` if the provider may have it; ``sent`` if it
            has said so.
        remote_id: The provider's id.
        requests: How many it has.
        created_at: Unix time in seconds.
        mark: What the provider had before.
    """

    id: str
    api: str
    base: str
    state: State
    remote_id: str | None
    requests: int
    created_at: float
    mark: dict[str, Any] | None


@dataclass(frozen=True)
class Reply:
    """The provider's answer to one request, as over HTTP."""

    status: int
    body: str


@dataclass(frozen=True)
class Asked:
    """A request that is in the tables: in a batch, and answered or not."""

    batch_id: str
    reply: Reply | None


class BatchTables:
    """The tables, with one thread that reads and writes them."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, "personaagent-batches")

    async def _run(self, work: Callable[[sa.Connection], T]) -> T:
        def transaction() -> T:
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                raise StoreError(
                    f"the tables of batches cannot be used ({type(error).__name__}): check the disk, and "
                    f"`{FILE}` in the data directory"
                ) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    async def write(self, batch: Batch, requests: Sequence[tuple[str, str]]) -> None:
        """Write a batch with its requests, each an id and the prefix of its user."""
        row = {**vars(batch), "mark": json.dumps(batch.mark)}

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(_batches), [row])
            for part in _parts(requests):
                # A request may be in the tables from a batch that gave it no answer.
                _delete(connection, [request_id for request_id, _ in part])
                rows = [{"id": i, "batch_id": batch.id, "user_prefix": prefix} for i, prefix in part]
                connection.execute(sa.insert(_requests), rows)

        await self._run(work)

    async def update(self, batch_id: str, **values: Any) -> None:
        """Change a batch."""
        if "mark" in values:
            values["mark"] = json.dumps(values["mark"])
        await self._run(
            lambda connection: connection.execute(
                sa.update(_batches).where(_batches.c.id == batch_id).values(**values)
            )
        )

    async def unfinished(self) -> list[Batch]:
        """Return the batches that are not finished, oldest first."""
        rows = await self._run(
            lambda connection: connection.execute(sa.select(_batches).order_by(_batches.c.created_at)).all()
        )
        return [Batch(**{**row._mapping, "mark": json.loads(row.mark) if row.mark else None}) for row in rows]

    async def asked(self, request_ids: Sequence[str]) -> dict[str, Asked]:
        """Return those of the requests that are in the tables."""

        def work(connection: sa.Connection) -> dict[str, Asked]:
            rows: list[Any] = []
            for part in _parts(request_ids):
                rows += connection.execute(sa.select(_requests).where(_requests.c.id.in_(part))).all()
            return {row.id: Asked(row.batch_id, _reply(row)) for row in rows}

        return await self._run(work)

    async def answer(self, replies: Sequence[tuple[str, Reply]]) -> None:
        """Keep answers to requests; one that is no longer in the tables is not kept."""
        await self._run(
            lambda connection: connection.execute(
                sa.update(_requests)
                .where(_requests.c.id == sa.bindparam("request"))
                .values(status=sa.bindparam("code"), body=sa.bindparam("text")),
                [{"request": i, "code": reply.status, "text": reply.body} for i, reply in replies],
            )
        )

    async def holds(self, batch_id: str, request_id: str) -> bool:
        """Return whether a batch was written with a request."""
        asked = await self.asked([request_id])
        return request_id in asked and asked[request_id].batch_id == batch_id

    async def finish(self, batch_id: str) -> list[str]:
        """Delete a batch and its requests without an answer, and return the ids of these."""

        def work(connection: sa.Connection) -> list[str]:
            connection.execute(sa.delete(_batches).where(_batches.c.id == batch_id))
            open_ones = (_requests.c.batch_id == batch_id) & _requests.c.status.is_(None)
            ids = list(connection.execute(sa.select(_requests.c.id).where(open_ones)).scalars())
            connection.execute(sa.delete(_requests).where(open_ones))
            return ids

        return await self._run(work)

    async def forget(self, user_prefix: str) -> int:
        """Delete a user's requests with their answers, and return how many there were."""
        return await self._run(lambda connection: _forget(connection, user_prefix))

    async def delete(self, request_ids: Iterable[str]) -> None:
        """Delete requests with their answers."""
        ids = list(request_ids)

        def work(connection: sa.Connection) -> None:
            for part in _parts(ids):
                _delete(connection, part)

        await self._run(work)

    def close(self) -> None:
        """End the thread and close the database."""
        self._thread.shutdown()
        self._engine.dispose()


def _delete(connection: sa.Connection, request_ids: Sequence[str]) -> None:
    connection.execute(sa.delete(_requests).where(_requests.c.id.in_(request_ids)))


def _forget(connection: sa.Connection, user_prefix: str) -> int:
    mine = _requests.c.user_prefix == user_prefix
    return int(connection.execute(sa.delete(_requests).where(mine)).rowcount)


def _parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _reply(row: Any) -> Reply | None:
    return None if row.status is None else Reply(int(row.status), str(row.body))


def forget_user(store: UserStore, user_id: str, home: Path) -> int:
    """Delete a user's requests with their answers, and return how many there were.

    Raises:
        StoreError: The tables cannot be opened.
    """
    engine = _open(store, home)
    try:
        with engine.begin() as connection:
            n = _forget(connection, user_prefix(store, user_id))
        if is_sqlite(store):
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        engine.dispose()
    return n


def open_tables(store: UserStore, home: Path) -> BatchTables:
    """Open the tables: in the data directory, or in the database of a store on a server.

    Raises:
        StoreError: They cannot be opened.
    """
    return BatchTables(_open(store, home))


def _open(store: UserStore, home: Path) -> sa.Engine:
    try:
        engine = _file(home / FILE) if is_sqlite(store) else _server(server_url(store))
        _metadata.create_all(engine)
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(
            f"the tables of batches cannot be opened ({type(error).__name__}): check the disk, and `{FILE}` "
            f"in the data directory or the schema `{_SCHEMA}` of the database"
        ) from error
    return engine


def _file(path: Path) -> sa.Engine:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    make_private(path)
    engine = sa.create_engine(f"sqlite:///{path}", hide_parameters=True)
    sa.event.listen(engine, "connect", _on_connect)
    return engine


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    # A batch must be on the disk before it is submitted, also if the machine fails.
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _server(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, pool_size=1)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(_SCHEMA, if_not_exists=True))
    return engine.execution_options(schema_translate_map={None: _SCHEMA})
