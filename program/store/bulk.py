"""Inserts many rows fast: without SQLAlchemy's work for each row, and with `COPY` on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy import insert as insert_row
from sqlalchemy.exc import DBAPIError

_FEWEST = 20
"""Rows from which on it is worth it."""

_CHUNK = 100
"""Rows that are in memory twice."""


def insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that name every column of ``table``.

    Args:
        connection: In a write transaction.
        table: The table.
        rows: Values by column, as the columns' types take them.
    """
    if len(rows) < _FEWEST:
        if rows:
            connection.execute(insert_row(table), [dict(row) for row in rows])
        return
    names = [column.name for column in table.columns]
    impls = [column.type.dialect_impl(connection.dialect) for column in table.columns]
    processors = [impl.bind_processor(connection.dialect) for impl in impls]
    converters = [(place, convert) for place, convert in enumerate(processors) if convert is not None]
    pick = itemgetter(*names)

    def converted(row: Mapping[str, Any]) -> tuple[Any, ...]:
        cells = list(pick(row))
        for place, convert in converters:
            cells[place] = convert(cells[place])
        return tuple(cells)

    values = map(converted, rows)
    columns = ", ".join(f'"{name}"' for name in names)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table.name} ({columns}) VALUES ({marks})"
        while chunk := list(islice(values, _CHUNK)):
            connection.exec_driver_sql(statement, chunk)
    else:
        _copy(connection, f"COPY {table.name} ({columns}) FROM STDIN", values)


def _copy(connection: Connection, statement: str, values: Iterable[Sequence[Any]]) -> None:
    import psycopg

    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in values:
                copy.write_row(row)
    except psycopg.Error as error:
        # As SQLAlchemy reports it, without the rows.
        raise DBAPIError.instance(
            statement, None, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
