"""Hashes of forgotten users and interactions, and the log of what was done about them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0004"
down_revision = "v0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two tables. Written out, because `schema` will move on and this step may not."""
    op.create_table(
        "pa_forgotten",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("forgotten_at", sa.String(32), nullable=False),
    )
    op.create_index("ix_pa_forgotten_owner", "pa_forgotten", ["owner"])
    op.create_table(
        "pa_audit",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_index("ix_pa_audit_at", "pa_audit", ["at"])
