"""The database of the fleet, and what is read and written in the tables of DBOS there.

Only tables and columns that DBOS documents, and only what it has no function for or is slow at.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dbos import DBOSPortableJSONSerializer
from sqlalchemy import Engine, MetaData, Table, create_engine, event, func, select

from optimizers.fleet.batches import errors_reported
from optimizers.fleet.steps import FinishedStep
from program.side_files import make_private

SCHEMA = "personaagent_fleet"
"""On a database server."""

SERIALIZER = DBOSPortableJSONSerializer()
"""JSON; the default one of DBOS is pickle."""

_POOL = 4


def open_database(url: str) -> Engine:
    """Open the database of the fleet. A file is created, which nobody else may read, and has a log (WAL)."""
    if not url.startswith("sqlite"):
        return create_engine(
            url, pool_size=_POOL, max_overflow=_POOL, pool_pre_ping=True, hide_parameters=True
        )
    path = Path(url.removeprefix("sqlite:///"))
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    make_private(path)
    engine = create_engine(url, pool_size=_POOL, max_overflow=0, pool_timeout=600, hide_parameters=True)
    event.listen(engine, "connect", _on_connect)
    return engine


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    for pragma in (
        "busy_timeout=30000",
        "journal_mode=WAL",
        # A crash of the machine may lose the latest pieces, which are then paid again; one of the process
        # loses nothing.
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


class StepTables:
    """The documented tables of DBOS that hold the steps and the states of workflows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        schema = None if engine.dialect.name == "sqlite" else SCHEMA
        with errors_reported():
            self._steps, self._workflows = (
                Table(name, MetaData(), schema=schema, autoload_with=engine)
                for name in ("operation_outputs", "workflow_status")
            )

    def workflows_of(self, prefix: str) -> list[str]:
        """Return the ids that begin so. DBOS's own search by prefix reads the whole table, for each user."""
        column = self._workflows.c.workflow_uuid
        # Ids are hexadecimal digits and hyphens: in the order of any language "z" comes after both.
        query = select(column).where(column.between(prefix, f"{prefix}z"))
        with errors_reported(), self._engine.connect() as connection:
            return [name for name in connection.execute(query).scalars() if name.startswith(prefix)]

    def drop_steps(self, workflow_id: str) -> None:
        """Delete the steps of a workflow that ended well: nobody reads them, and they hold a user's texts."""
        with errors_reported(), self._engine.begin() as connection:
            connection.execute(self._steps.delete().where(self._steps.c.workflow_uuid == workflow_id))

    def counts(self) -> dict[str, int]:
        """Return the number of steps of each workflow that has any."""
        column = self._steps.c.workflow_uuid
        with errors_reported(), self._engine.connect() as connection:
            rows = connection.execute(select(column, func.count()).group_by(column))
            return {workflow_id: n for workflow_id, n in rows}

    def write(self, steps: Sequence[FinishedStep]) -> set[str]:
        """Write steps, and return the workflows that somebody cancelled."""
        rows = [
            {
                "workflow_uuid": step.workflow_id,
                "function_id": step.number,
                "function_name": step.name,
                "output": SERIALIZER.serialize(step.output),
                "serialization": SERIALIZER.name(),
                "started_at_epoch_ms": step.finished_at,
                "completed_at_epoch_ms": step.finished_at,
            }
            for step in steps
        ]
        columns = self._workflows.c
        cancelled = select(columns.workflow_uuid).where(
            columns.workflow_uuid.in_({step.workflow_id for step in steps}), columns.status == "CANCELLED"
        )
        with errors_reported(), self._engine.begin() as connection:
            connection.execute(self._steps.insert(), rows)
            return set(connection.execute(cancelled).scalars())
