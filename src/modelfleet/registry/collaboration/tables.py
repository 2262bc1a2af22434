"""Tables of collaboration. People are known by id; their names are kept for whoever reads."""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.database import Json, metadata

model_owner = sa.Table(
    "model_owner",
    metadata,
    sa.Column("model_id", sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("principal", sa.String(200), primary_key=True),
    sa.Column("added_by", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

model_watcher = sa.Table(
    "model_watcher",
    metadata,
    sa.Column("model_id", sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("principal", sa.String(200), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

version_comment = sa.Table(
    "version_comment",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("version_id", sa.ForeignKey("model_version.id"), nullable=False),
    sa.Column("author_id", sa.String(64), nullable=False),
    sa.Column("author", sa.String(200), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("edited_at", sa.BigInteger),
    sa.Index("ix_version_comment_version_id", "version_id"),
)

# Either `reviewer` or `role` is filled, the other one is empty.
version_review = sa.Table(
    "version_review",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("version_id", sa.ForeignKey("model_version.id"), nullable=False),
    sa.Column("requested_by_id", sa.String(64), nullable=False),
    sa.Column("requested_by", sa.String(200), nullable=False),
    sa.Column("reviewer", sa.String(200), nullable=False),
    sa.Column("role", sa.String(40), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("answered_by", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("answered_at", sa.BigInteger),
    sa.Index("ix_version_review_version_id", "version_id"),
    sa.Index("ix_version_review_state", "state"),
)

model_template = sa.Table(
    "model_template",
    metadata,
    sa.Column("namespace_id", sa.ForeignKey("namespace.id"), primary_key=True),
    sa.Column("team", sa.String(120), primary_key=True),
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("defaults", Json, nullable=False),
    sa.Column("updated_by", sa.String(200), nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

# What a template said when the model was made: it may change or go, the model keeps this.
model_default = sa.Table(
    "model_default",
    metadata,
    sa.Column("model_id", sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("template", sa.String(120), nullable=False),
    sa.Column("requirements", Json, nullable=False),
)
