"""Decider's tables. What opens anything is not here: keyholder checks signatures, the database only collects them.

Times are Unix seconds. `outbox` and the WebAuthn kind of `credentials` are laid out for notifications and passkeys.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

requests = Table(
    "requests",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("workload", String(64), nullable=False),
    Column("kid", String(43), nullable=False),
    Column("point", String(43), nullable=False, unique=True),
    Column("point_jwk", LargeBinary, nullable=False),
    Column("client", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False, default=1),
    Column("receipt", LargeBinary, nullable=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("claims", LargeBinary),
    Column("source", String(64), nullable=False),
    Column("created", Integer, nullable=False),
    Column("expires", Integer, nullable=False),
    Column("closed", Integer),
    Column("closed_by", String(128)),
    Column("wrong_codes", Integer, nullable=False, default=0),
    Column("needed", Integer, nullable=False),
    Column("entry_index", Integer, nullable=False),
    Column("identity", String(128)),
    Index("ix_requests_state", "state", "expires"),
    Index("ix_requests_workload_state", "workload", "state"),
)

statements = Table(
    "statements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request", String(32), ForeignKey("requests.id"), nullable=False),
    Column("operator", String(64), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("kind", String(16), nullable=False, default="ssh"),
    Column("statement", LargeBinary, nullable=False),
    Column("signature", Text, nullable=False),
    Column("checkpoint_size", Integer, nullable=False),
    Column("checkpoint_time", Integer, nullable=False),
    Column("time", Integer, nullable=False),
    UniqueConstraint("request", "operator"),
)

operators = Table(
    "operators",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("is_admin", Boolean, nullable=False),
    Column("is_suspended", Boolean, nullable=False),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("operator", String(64), ForeignKey("operators.name"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("fingerprint", String(128), nullable=False, unique=True),
    Column("public", Text, nullable=False),
    CheckConstraint("kind IN ('ssh', 'webauthn')", name="kind"),
)

workloads = Table(
    "workloads",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("kid", String(43), nullable=False, unique=True),
    Column("revision", String(43), nullable=False),
    Column("policy", Text, nullable=False),
)

hosts = Table(
    "hosts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("key", String(43), nullable=False, unique=True),
    Column("protection", String(16), nullable=False),
    Column("is_suspended", Boolean, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_digest", String(43), primary_key=True),
    Column("operator", String(64), nullable=False),
    Column("expires", Integer, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("channel", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("due", Integer, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("sent", Integer),
    Index("ix_outbox_due", "sent", "due"),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False, index=True),
    Column("leaf", LargeBinary(32), nullable=False),
    Column("entry", LargeBinary, nullable=False),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)
