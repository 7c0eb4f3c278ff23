"""The tables. Every primary key starts with the user id, but those of what is left of forgotten users."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Float,
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

from program.store.checks import MAX_COHORT_CHARS, MAX_ID_CHARS, DamagedValueError

SCHEMA = "v0004"
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
        if value is None:
            return ""
        # Most times are in UTC already, and converting one takes as long as writing it.
        in_utc = value if value.tzinfo is timezone.utc else value.astimezone(timezone.utc)
        return in_utc.isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Convert text to a time."""
        try:
            return None if value == "" else datetime.fromisoformat(value)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise DamagedValueError("a stored time") from error


class StoredText(TypeDecorator[str]):
    """Text; SQLite would return bytes or a number from a damaged row."""

    impl: Any = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Return the text."""
        if value is None or isinstance(value, str):
            return value
        raise DamagedValueError("a stored text")


class StoredId(StoredText):
    """An id of at most `MAX_ID_CHARS` characters."""

    impl: Any = String(MAX_ID_CHARS)
    cache_ok = True


class StoredName(StoredText):
    """A word or a generated id of the program."""

    impl: Any = String
    cache_ok = True


class StoredInteger(TypeDecorator[int]):
    """A number; SQLite would return text or bytes from a damaged row."""

    impl: Any = Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """Return the number."""
        if value is None or type(value) is int:
            return value
        raise DamagedValueError("a stored number")


class StoredTotal(StoredInteger):
    """A number of 64 bits."""

    impl: Any = BigInteger
    cache_ok = True


class StoredFloat(TypeDecorator[float]):
    """A finite number; SQLite would return text or bytes from a damaged row."""

    impl = Float
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        """Return the number."""
        if value is None or (type(value) is float and math.isfinite(value)):
            return value
        raise DamagedValueError("a stored number")


class StoredJson(TypeDecorator[dict[str, Any]]):
    """A JSON object; SQLite would return a number from a damaged row without reading it as JSON."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:
        """Return the object."""
        if value is None or isinstance(value, dict):
            return value
        raise DamagedValueError("a stored JSON text")


metadata = MetaData()


def _user(primary_key: bool = True) -> Column[str]:
    return Column(
        "user_id",
        StoredId,
        ForeignKey("pa_users.user_id", ondelete="CASCADE"),
        primary_key=primary_key,
    )


users = Table(
    "pa_users",
    metadata,
    Column("user_id", StoredId, primary_key=True),
    Column("task", StoredText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    # Number of interactions, and how many of them the current persona accounts for.
    Column("interactions", StoredInteger, nullable=False),
    Column("settled", StoredInteger, nullable=False),
    # The newest persona version; 0 if there is none.
    Column("head", StoredInteger, nullable=False),
    # The version that agents read instead, and that nothing replaces; null if none is pinned.
    Column("pinned", StoredInteger),
    # Since when there are interactions that the persona does not account for; empty if there are none.
    Column("stale_since", UtcTime, nullable=False, server_default=""),
)

interactions = Table(
    "pa_interactions",
    metadata,
    _user(),
    Column("id", StoredId, primary_key=True),
    # Order of arrival for each user, from 1.
    Column("position", StoredInteger, nullable=False),
    Column("timestamp", UtcTime, nullable=False),
    Column("query", StoredText, nullable=False),
    Column("response", StoredText, nullable=False),
    Column("metadata", StoredJson, nullable=False),
    UniqueConstraint("user_id", "position", name="pa_interactions_arrival"),
)
Index("pa_interactions_time", interactions.c.user_id, interactions.c.timestamp, interactions.c.position)

profiles = Table("pa_profiles", metadata, _user(), Column("profile", StoredJson, nullable=False))

personas = Table(
    "pa_personas",
    metadata,
    _user(),
    Column("version", StoredInteger, primary_key=True, autoincrement=False),
    Column("text", StoredText, nullable=False),
    Column("parent", StoredInteger),
    Column("source", StoredName(16), nullable=False),
    Column("why", StoredText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("alignment_id", StoredName(32)),
    # The parts behind the text (`program.persona.Persona`); null for a text written freely.
    Column("parts", StoredJson(none_as_null=True)),
)

alignments = Table(
    "pa_alignments",
    metadata,
    _user(),
    Column("id", StoredName(32), primary_key=True),
    # Order of the user's runs, from 1: start times may be equal.
    Column("number", StoredInteger, nullable=False),
    Column("status", StoredName(16), nullable=False),
    Column("owner", StoredText, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime, nullable=False),
    # The user at the start of the run: persona version (0: none) and number of interactions.
    Column("head", StoredInteger, nullable=False),
    Column("interactions", StoredInteger, nullable=False),
    Column("config", StoredJson, nullable=False),
    Column("record", StoredJson, nullable=False),
    Column("error", StoredText, nullable=False),
    UniqueConstraint("user_id", "number", name="pa_alignments_order"),
)

steps = Table(
    "pa_steps",
    metadata,
    Column("user_id", StoredId, primary_key=True),
    Column("alignment_id", StoredName(32), primary_key=True),
    Column("number", StoredInteger, primary_key=True, autoincrement=False),
    Column("data", StoredJson, nullable=False),
    ForeignKeyConstraint(
        ["user_id", "alignment_id"], ["pa_alignments.user_id", "pa_alignments.id"], ondelete="CASCADE"
    ),
)

trials = Table(
    "pa_trials",
    metadata,
    Column("user_id", StoredId, primary_key=True),
    Column("alignment_id", StoredName(32), primary_key=True),
    Column("number", StoredInteger, primary_key=True, autoincrement=False),
    # Trials of one cohort can be compared: the same task, model and settings.
    Column("cohort", StoredName(MAX_COHORT_CHARS), nullable=False),
    Column("n_plus", StoredFloat, nullable=False),
    Column("n_minus", StoredFloat, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    ForeignKeyConstraint(
        ["user_id", "alignment_id"], ["pa_alignments.user_id", "pa_alignments.id"], ondelete="CASCADE"
    ),
)
Index("pa_trials_cohort", trials.c.cohort, trials.c.created_at)

costs = Table(
    "pa_costs",
    metadata,
    _user(),
    # Of the end of the run, in UTC: "2026-11".
    Column("month", StoredName(7), primary_key=True),
    Column("alignments", StoredInteger, nullable=False),
    Column("failed", StoredInteger, nullable=False),
    Column("answers", StoredInteger, nullable=False),
    # As in `program.usage.Usage`.
    Column("calls", StoredTotal, nullable=False),
    Column("input_tokens", StoredTotal, nullable=False),
    Column("cached_tokens", StoredTotal, nullable=False),
    Column("output_tokens", StoredTotal, nullable=False),
    Column("usd", StoredFloat, nullable=False),
    Column("unpriced", StoredTotal, nullable=False),
    Column("cache_hits", StoredTotal, nullable=False),
    # Rollouts that have a score, and the sum of their scores.
    Column("scored", StoredInteger, nullable=False),
    Column("score_sum", StoredFloat, nullable=False),
)

forgotten = Table(
    "pa_forgotten",
    metadata,
    # Hashes (`program.store.tombstones`): of a user or an interaction, and of the user that it belonged to.
    Column("digest", StoredName(64), primary_key=True),
    Column("owner", StoredName(64), nullable=False, index=True),
    Column("forgotten_at", UtcTime, nullable=False),
)

audit = Table(
    "pa_audit",
    metadata,
    Column("id", StoredName(32), primary_key=True),
    Column("at", UtcTime, nullable=False, index=True),
    Column("action", StoredName(32), nullable=False),
    # Who asked for it: an account of the machine or the name of a key, never the user of the store.
    Column("actor", StoredText, nullable=False),
    # The hash of the user that it was about.
    Column("subject", StoredName(64), nullable=False),
    Column("details", StoredJson, nullable=False),
)
