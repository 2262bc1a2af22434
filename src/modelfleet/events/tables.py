"""Tables of webhooks and their deliveries."""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.database import Json, metadata

webhook = sa.Table(
    "webhook",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("namespace_id", sa.String(32), nullable=False),
    sa.Column("namespace", sa.String(64), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("format", sa.String(20), nullable=False),
    sa.Column("events", Json, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("since", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

# `id` is what receivers see, and by which they tell a repeated delivery.
delivery = sa.Table(
    "webhook_delivery",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("webhook_id", sa.ForeignKey("webhook.id"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("event", sa.String(80), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.BigInteger, nullable=False),
    sa.Column("response_status", sa.Integer),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_webhook_delivery_status", "status", "next_at"),
    sa.Index("ix_webhook_delivery_webhook_id", "webhook_id", "created_at"),
)

# One row: the last audit event that was looked at.
cursor = sa.Table(
    "webhook_cursor",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
)
