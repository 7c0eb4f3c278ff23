"""The tables. Every primary key starts with the user id."""

from __future__ import annotations

from datetime import datetime, timezone

from sqlalchemy import (
    JSON,
    Column,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from program.store.checks import MAX_ID_CHARS, DamagedValueError

SCHEMA = "v0001"
"""The newest migration; a test compares it with `program/store/migrations`."""

VERSION_TABLE = "pa_schema"
"""The table with the schema version. All names start with ``pa_``, because on PostgreSQL other tables may
share the database."""


class UtcTime(TypeDecorator[datetime]):
    """Stores an aware datetime as ISO text in UTC with microseconds, and ``None`` as empty text.

    Text order is then time order, with undated rows first, on both SQLite and PostgreSQL.
    """

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str:
        """Convert a time to text."""
        return "" if value is None else value.astimezone(timezone.utc).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Convert text to a time."""
        try:
            return datetime.fromisoformat(value) if value else None
        except ValueError as error:
            raise DamagedValueError("a stored time") from error


metadata = MetaData()


def _user(primary_key: bool = True) -> Column[str]:
    return Column(
        "user_id",
        String(MAX_ID_CHARS),
        ForeignKey("pa_users.user_id", ondelete="CASCADE"),
        primary_key=primary_key,
    )


users = Table(
    "pa_users",
    metadata,
    Column("user_id", String(MAX_ID_CHARS), primary_key=True),
    Column("task", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    # Number of interactions, and how many of them the current persona accounts for.
    Column("interactions", Integer, nullable=False),
    Column("settled", Integer, nullable=False),
    # The current persona version; 0 if there is none.
    Column("head", Integer, nullable=False),
)

interactions = Table(
    "pa_interactions",
    metadata,
    _user(),
    Column("id", String(MAX_ID_CHARS), primary_key=True),
    # Order of arrival for each user, from 1.
    Column("position", Integer, nullable=False),
    Column("timestamp", UtcTime, nullable=False),
    Column("query", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    UniqueConstraint("user_id", "position", name="pa_interactions_arrival"),
)
Index("pa_interactions_time", interactions.c.user_id, interactions.c.timestamp, interactions.c.position)

profiles = Table("pa_profiles", metadata, _user(), Column("profile", JSON, nullable=False))

personas = Table(
    "pa_personas",
    metadata,
    _user(),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("parent", Integer),
    Column("source", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("alignment_id", String(32)),
)

alignments = Table(
    "pa_alignments",
    metadata,
    _user(),
    Column("id", String(32), primary_key=True),
    # Order of the user's runs, from 1: start times may be equal.
    Column("number", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("owner", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime, nullable=False),
    # The user at the start of the run: persona version (0: none) and number of interactions.
    Column("head", Integer, nullable=False),
    Column("interactions", Integer, nullable=False),
    Column("config", JSON, nullable=False),
    Column("record", JSON, nullable=False),
    Column("error", Text, nullable=False),
    UniqueConstraint("user_id", "number", name="pa_alignments_order"),
)

steps = Table(
    "pa_steps",
    metadata,
    Column("user_id", String(MAX_ID_CHARS), primary_key=True),
    Column("alignment_id", String(32), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("data", JSON, nullable=False),
    ForeignKeyConstraint(
        ["user_id", "alignment_id"], ["pa_alignments.user_id", "pa_alignments.id"], ondelete="CASCADE"
    ),
)
