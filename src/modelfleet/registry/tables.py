"""Tables of the registry."""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.database import Json, metadata

model = sa.Table(
    "model",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("business_function", sa.String(120), nullable=False),
    sa.Column("criticality", sa.String(20), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("next_sequence", sa.Integer, nullable=False),
    sa.Column("latest_version_id", sa.String(32)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("isolation", sa.String(20), nullable=False, server_default="shared"),
)

bundle = sa.Table(
    "bundle",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("entries", Json, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

environment = sa.Table(
    "environment",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("python", sa.String(20), nullable=False),
    sa.Column("platform", sa.String(80), nullable=False),
    sa.Column("lock", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

run = sa.Table(
    "run",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("experiment", sa.String(200), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("parameters", Json, nullable=False),
    sa.Column("metrics", Json, nullable=False),
    sa.Column("dataset", sa.String(300), nullable=False),
    sa.Column("git_commit", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

# SQLite hands out `number` itself; it never goes back (AUTOINCREMENT), so that evidence about a
# deleted version is never taken for a new one's.
model_version = sa.Table(
    "model_version",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("model_id", sa.ForeignKey("model.id"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("semver", sa.String(100), nullable=False),
    sa.Column("semver_sort_key", sa.String(200), nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("bundle_digest", sa.ForeignKey("bundle.digest"), nullable=False),
    sa.Column("environment_digest", sa.ForeignKey("environment.digest")),
    sa.Column("requested_environment", Json, nullable=False),
    sa.Column("run_id", sa.ForeignKey("run.id")),
    sa.Column("info", Json, nullable=False),
    sa.Column("serving", sa.String(20), nullable=False),
    sa.Column("metrics", Json, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("model_id", "sequence"),
    sa.UniqueConstraint("model_id", "semver_sort_key"),
    sqlite_autoincrement=True,
)

variant = sa.Table(
    "variant",
    metadata,
    sa.Column("version_id", sa.ForeignKey("model_version.id"), primary_key=True),
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("bundle_digest", sa.ForeignKey("bundle.digest"), nullable=False),
    sa.Column("environment_digest", sa.ForeignKey("environment.digest")),
    sa.Column("evidence", Json, nullable=False),
)

alias = sa.Table(
    "alias",
    metadata,
    sa.Column("model_id", sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("version_id", sa.ForeignKey("model_version.id"), nullable=False),
)

# Rooms above write here what they hold, so that nothing in use can be deleted.
reference = sa.Table(
    "reference",
    metadata,
    sa.Column("version_id", sa.ForeignKey("model_version.id"), primary_key=True),
    sa.Column("holder", sa.String(300), primary_key=True),
)
