"""Tables of the registry: models, their versions, and what belongs to these.

Rows of a model, an experiment and a webhook name the namespace they live in; everything else
belongs to one of those.
"""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.database import Json, metadata

namespace = sa.Table(
    "namespace",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

model = sa.Table(
    "model",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("namespace_id", sa.ForeignKey("namespace.id"), nullable=False),
    sa.Column("name", sa.String(250), nullable=False),
    sa.Column("owner_team", sa.String(120), nullable=False),
    sa.Column("business_function", sa.String(120), nullable=False),
    sa.Column("criticality", sa.String(20), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("next_sequence", sa.Integer, nullable=False),
    sa.Column("latest_version_id", sa.String(32)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("isolation", sa.String(20), nullable=False, server_default="shared"),
    sa.UniqueConstraint("namespace_id", "name"),
)

model_tag = sa.Table(
    "model_tag",
    metadata,
    sa.Column("model_id", sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
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
    sa.Column("bundle_digest", sa.ForeignKey("bundle.digest")),
    sa.Column("environment_digest", sa.ForeignKey("environment.digest")),
    sa.Column("requested_environment", Json, nullable=False),
    sa.Column("run_id", sa.String(32)),
    sa.Column("info", Json),
    sa.Column("serving", sa.String(20), nullable=False),
    sa.Column("metrics", Json, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("stage", sa.String(60), nullable=False, server_default=""),
    sa.Column("lifecycle", sa.String(20), nullable=False, server_default="active"),
    sa.Column("lifecycle_reason", sa.Text, nullable=False, server_default=""),
    sa.Column("source_uri", sa.Text, nullable=False, server_default=""),
    sa.Column("run_link", sa.Text, nullable=False, server_default=""),
    sa.Column("logged_model_id", sa.String(34)),
    sa.Column("code", Json),
    sa.Column("hardware", Json),
    sa.UniqueConstraint("model_id", "sequence"),
    sa.UniqueConstraint("model_id", "semver_sort_key"),
    sa.Index("ix_model_version_run_id", "run_id"),
    sa.Index("ix_model_version_bundle_digest", "bundle_digest"),
    sa.Index("ix_model_version_stage", "model_id", "stage"),
    sqlite_autoincrement=True,
)

version_tag = sa.Table(
    "version_tag",
    metadata,
    sa.Column("version_id", sa.ForeignKey("model_version.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
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
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("version_id", sa.ForeignKey("model_version.id"), nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_alias_version_id", "version_id"),
)

# Rooms above write here what they hold, so that nothing in use can be deleted.
reference = sa.Table(
    "reference",
    metadata,
    sa.Column("version_id", sa.ForeignKey("model_version.id"), primary_key=True),
    sa.Column("holder", sa.String(300), primary_key=True),
)

# SQLite and PostgreSQL compare the first bytes of a long value by hash or not at all; a tag is
# searched by its key and the first characters of its value.
TAG_PREFIX = 80
for _tags, _owner in ((model_tag, "model_id"), (version_tag, "version_id")):
    sa.Index(
        f"ix_{_tags.name}_search",
        _tags.c.key,
        sa.func.substr(_tags.c.value, 1, TAG_PREFIX),
        _tags.c[_owner],
    )

# Blobs that nothing named at the last look, and since when.
garbage = sa.Table(
    "garbage",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("since", sa.BigInteger, nullable=False),
)

stage = sa.Table(
    "stage",
    metadata,
    sa.Column("namespace_id", sa.ForeignKey("namespace.id"), primary_key=True),
    sa.Column("name", sa.String(60), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
)
