"""Tables of rollouts."""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.database import Json, metadata

rollout = sa.Table(
    "rollout",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("endpoint_id", sa.String(32), nullable=False),
    sa.Column("endpoint", sa.String(200), nullable=False),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("from_version_id", sa.String(32)),
    sa.Column("to_version_id", sa.String(32), nullable=False),
    sa.Column("spec", Json, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("desired", sa.String(20), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("route_revision", sa.Integer, nullable=False),
    sa.Column("step_at", sa.BigInteger, nullable=False),
    sa.Column("applied_at", sa.BigInteger),
    sa.Column("judge", Json, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("retry_of", sa.String(32), nullable=False, server_default=""),
    sa.Column("group_id", sa.String(32), nullable=False, server_default=""),
    sa.Column("after", Json, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("arms", Json, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("notes", Json, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("waits", sa.Text, nullable=False, server_default=""),
    sa.Index("ix_rollout_endpoint", "endpoint_id", "started_at"),
    sa.Index("ix_rollout_state", "state"),
    sa.Index("ix_rollout_group_id", "group_id"),
    sa.Index(
        "uq_rollout_active",
        "endpoint_id",
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
)

# Append-only: what the judge knew at each tick.
evidence = sa.Table(
    "rollout_evidence",
    metadata,
    sa.Column("rollout_id", sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("tick", sa.BigInteger, primary_key=True),
    sa.Column("arm", sa.Integer, primary_key=True, server_default="0"),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("verdict", Json, nullable=False),
)

# Append-only: every change of state.
move = sa.Table(
    "rollout_move",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rollout_id", sa.ForeignKey("rollout.id"), nullable=False, index=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
)
