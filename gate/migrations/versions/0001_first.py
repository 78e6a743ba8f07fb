"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "requests",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("workload", sa.String(64), nullable=False),
        sa.Column("kid", sa.String(43), nullable=False),
        sa.Column("point", sa.String(43), nullable=False, unique=True),
        sa.Column("point_jwk", sa.LargeBinary, nullable=False),
        sa.Column("client", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=False),
        sa.Column("token", sa.String(64), nullable=False, unique=True),
        sa.Column("claims", sa.LargeBinary),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("created", sa.Integer, nullable=False),
        sa.Column("expires", sa.Integer, nullable=False),
        sa.Column("closed", sa.Integer),
        sa.Column("closed_by", sa.String(128)),
        sa.Column("wrong_codes", sa.Integer, nullable=False),
        sa.Column("needed", sa.Integer, nullable=False),
        sa.Column("entry_index", sa.Integer, nullable=False),
    )
    op.create_index("ix_requests_state", "requests", ["state", "expires"])
    op.create_index("ix_requests_workload_state", "requests", ["workload", "state"])
    op.create_table(
        "statements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("request", sa.String(32), sa.ForeignKey("requests.id"), nullable=False),
        sa.Column("operator", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("checkpoint_size", sa.Integer, nullable=False),
        sa.Column("checkpoint_time", sa.Integer, nullable=False),
        sa.Column("time", sa.Integer, nullable=False),
        sa.UniqueConstraint("request", "operator"),
    )
    _create_roster()
    _create_log()


def downgrade() -> None:
    """Drop every table."""
    for name in (
        "audit_checkpoints", "audit_entries", "outbox", "sessions", "workloads", "credentials", "operators",
        "statements", "requests",
    ):  # fmt: skip
        op.drop_table(name)


def _create_roster() -> None:
    op.create_table(
        "operators",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("is_suspended", sa.Boolean, nullable=False),
    )
    op.create_table(
        "credentials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("operator", sa.String(64), sa.ForeignKey("operators.name"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False, unique=True),
        sa.Column("public", sa.Text, nullable=False),
        sa.CheckConstraint("kind IN ('ssh', 'webauthn')", name="kind"),
    )
    op.create_table(
        "workloads",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("kid", sa.String(43), nullable=False, unique=True),
        sa.Column("revision", sa.String(43), nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("token_digest", sa.String(43), primary_key=True),
        sa.Column("operator", sa.String(64), nullable=False),
        sa.Column("expires", sa.Integer, nullable=False),
    )


def _create_log() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("due", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("sent", sa.Integer),
    )
    op.create_index("ix_outbox_due", "outbox", ["sent", "due"])
    op.create_table(
        "audit_entries",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("leaf", sa.LargeBinary(32), nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_audit_entries_kind", "audit_entries", ["kind"])
    op.create_table(
        "audit_checkpoints",
        sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
    )
