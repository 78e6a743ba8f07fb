"""Hosts that have a key of their own, and who asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of hosts, and what each asker proved to be."""
    op.add_column("requests", sa.Column("identity", sa.String(128)))
    op.create_table(
        "hosts",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(43), nullable=False, unique=True),
        sa.Column("protection", sa.String(16), nullable=False),
        sa.Column("is_suspended", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    """Forget both."""
    op.drop_table("hosts")
    op.drop_column("requests", "identity")
