"""Users, interactions, profiles, persona versions, alignments and their steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0001"
down_revision = None
branch_labels = None
depends_on = None


def _user() -> sa.Column[str]:
    return sa.Column(
        "user_id", sa.String(256), sa.ForeignKey("pa_users.user_id", ondelete="CASCADE"), primary_key=True
    )


def upgrade() -> None:
    """Make all tables. Written out, because `schema` will move on and this step may not."""
    op.create_table(
        "pa_users",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("interactions", sa.Integer, nullable=False),
        sa.Column("settled", sa.Integer, nullable=False),
        sa.Column("head", sa.Integer, nullable=False),
    )
    op.create_table(
        "pa_interactions",
        _user(),
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("timestamp", sa.String(32), nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.UniqueConstraint("user_id", "position", name="pa_interactions_arrival"),
    )
    op.create_index("pa_interactions_time", "pa_interactions", ["user_id", "timestamp", "position"])
    op.create_table("pa_profiles", _user(), sa.Column("profile", sa.JSON, nullable=False))
    op.create_table(
        "pa_personas",
        _user(),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("alignment_id", sa.String(32)),
    )
    op.create_table(
        "pa_alignments",
        _user(),
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32), nullable=False),
        sa.Column("head", sa.Integer, nullable=False),
        sa.Column("interactions", sa.Integer, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.UniqueConstraint("user_id", "number", name="pa_alignments_order"),
    )
    op.create_table(
        "pa_steps",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("alignment_id", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "alignment_id"], ["pa_alignments.user_id", "pa_alignments.id"], ondelete="CASCADE"
        ),
    )
