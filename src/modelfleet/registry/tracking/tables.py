"""Tables of training: experiments, runs, logged models and the files that they keep."""

from __future__ import annotations

import sqlalchemy as sa

from modelfleet.core.database import Json, metadata

experiment = sa.Table(
    "experiment",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("namespace_id", sa.ForeignKey("namespace.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("artifact_location", sa.Text, nullable=False),
    sa.Column("deleted_at", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("namespace_id", "number"),
    sa.UniqueConstraint("namespace_id", "name"),
)

experiment_tag = sa.Table(
    "experiment_tag",
    metadata,
    sa.Column("experiment_id", sa.ForeignKey("experiment.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

run = sa.Table(
    "run",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("experiment_id", sa.ForeignKey("experiment.id"), nullable=False),
    sa.Column("name", sa.String(250), nullable=False),
    sa.Column("user", sa.String(250), nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("deleted_at", sa.BigInteger),
    sa.Column("dataset", sa.String(300), nullable=False),
    sa.Column("git_commit", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_run_experiment_id", "experiment_id", "started_at"),
)

run_parameter = sa.Table(
    "run_parameter",
    metadata,
    sa.Column("run_id", sa.ForeignKey("run.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("ix_run_parameter_key", "key", "run_id"),
)

run_tag = sa.Table(
    "run_tag",
    metadata,
    sa.Column("run_id", sa.ForeignKey("run.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("ix_run_tag_key", "key", "run_id"),
)

# `value` of a metric is finite: NaN is 0 with `is_nan`, infinities are the largest doubles.
run_metric = sa.Table(
    "run_metric",
    metadata,
    sa.Column("run_id", sa.ForeignKey("run.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("is_nan", sa.Boolean, nullable=False),
    sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Index("ix_run_metric_key", "key", "value"),
)

metric_point = sa.Table(
    "metric_point",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("run_id", sa.ForeignKey("run.id"), nullable=False),
    sa.Column("key", sa.String(250), nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("is_nan", sa.Boolean, nullable=False),
    sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("run_id", "key", "timestamp_ms", "step", "value", "is_nan"),
)

dataset = sa.Table(
    "dataset",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("experiment_id", sa.ForeignKey("experiment.id"), nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("source_type", sa.String(60), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("schema", sa.Text),
    sa.Column("profile", sa.Text),
    sa.UniqueConstraint("experiment_id", "name", "digest"),
)

run_input = sa.Table(
    "run_input",
    metadata,
    sa.Column("run_id", sa.ForeignKey("run.id"), primary_key=True),
    sa.Column("dataset_id", sa.ForeignKey("dataset.id"), primary_key=True),
    sa.Column("tags", Json, nullable=False),
    sa.Column("context", sa.String(500), nullable=False),
)

run_model = sa.Table(
    "run_model",
    metadata,
    sa.Column("run_id", sa.ForeignKey("run.id"), primary_key=True),
    sa.Column("logged_model_id", sa.String(34), primary_key=True),
    sa.Column("direction", sa.String(10), primary_key=True),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Index("ix_run_model_logged_model_id", "logged_model_id"),
)

logged_model = sa.Table(
    "logged_model",
    metadata,
    sa.Column("id", sa.String(34), primary_key=True),
    sa.Column("experiment_id", sa.ForeignKey("experiment.id"), nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("model_type", sa.String(500), nullable=False),
    sa.Column("source_run_id", sa.String(32)),
    sa.Column("status", sa.String(40), nullable=False),
    sa.Column("status_message", sa.Text, nullable=False),
    sa.Column("bundle_digest", sa.ForeignKey("bundle.digest")),
    sa.Column("deleted_at", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_logged_model_experiment_id", "experiment_id", "created_at"),
    sa.Index("ix_logged_model_source_run_id", "source_run_id"),
)

logged_model_parameter = sa.Table(
    "logged_model_parameter",
    metadata,
    sa.Column("logged_model_id", sa.ForeignKey("logged_model.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

logged_model_tag = sa.Table(
    "logged_model_tag",
    metadata,
    sa.Column("logged_model_id", sa.ForeignKey("logged_model.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

logged_model_metric = sa.Table(
    "logged_model_metric",
    metadata,
    sa.Column("logged_model_id", sa.ForeignKey("logged_model.id"), primary_key=True),
    sa.Column("run_id", sa.ForeignKey("run.id"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("dataset_name", sa.String(500), primary_key=True),
    sa.Column("dataset_digest", sa.String(64), primary_key=True),
    sa.Column("timestamp_ms", sa.BigInteger, primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("is_nan", sa.Boolean, nullable=False),
)

# The mutable files of runs and logged models, by the path that clients use:
# `<experiment number>/<run id>/artifacts/...`, `<experiment number>/models/<id>/artifacts/...`.
artifact = sa.Table(
    "artifact",
    metadata,
    sa.Column("namespace_id", sa.ForeignKey("namespace.id"), primary_key=True),
    sa.Column("path", sa.String(1000), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_artifact_sha256", "sha256"),
)
