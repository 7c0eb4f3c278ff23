"""The parts behind a persona's text, and the trials of its candidates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0002"
down_revision = "v0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and a table. Written out, because `schema` will move on and this step may not."""
    op.add_column("pa_personas", sa.Column("parts", sa.JSON, nullable=True))
    op.create_table(
        "pa_trials",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("alignment_id", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cohort", sa.String(512), nullable=False),
        sa.Column("n_plus", sa.Float, nullable=False),
        sa.Column("n_minus", sa.Float, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "alignment_id"], ["pa_alignments.user_id", "pa_alignments.id"], ondelete="CASCADE"
        ),
    )
    op.create_index("pa_trials_cohort", "pa_trials", ["cohort", "created_at"])
