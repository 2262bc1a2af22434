"""Namespaces; tags and stages; experiments, runs with histories, logged models, artifacts"""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DEFAULT = "0" * 32
STAGES = (("dev", False), ("staging", False), ("prod", True), ("archived", False))


def upgrade() -> None:
    now = time.time_ns() // 1000
    op.create_table(
        "namespace",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_namespace_name"),
    )
    op.execute(
        sa.text("INSERT INTO namespace (id, name, created_at) VALUES (:id, 'default', :now)")
        .bindparams(id=DEFAULT, now=now)
    )  # fmt: skip
    op.create_table(
        "stage",
        _owner("namespace_id", "namespace.id", "stage"),
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("protected", sa.Boolean, nullable=False),
    )
    _add_stages()
    _create_tracking()
    _move_runs(now)
    _change_models(now)
    _change_versions()


def _document(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _owner(name: str, target: str, table: str, primary: bool = True) -> sa.Column[str]:
    key = sa.ForeignKey(target, name=f"fk_{table}_{name}")
    size = 34 if target == "logged_model.id" else 32
    return sa.Column(name, sa.String(size), key, primary_key=primary, nullable=False)


def _add_stages() -> None:
    for position, (name, protected) in enumerate(STAGES, 1):
        op.execute(
            sa.text(
                "INSERT INTO stage (namespace_id, name, position, protected) "
                "VALUES (:ns, :name, :position, :protected)"
            ).bindparams(ns=DEFAULT, name=name, position=position, protected=protected)
        )


def _resize(batch: BatchOperations, name: str, before: int, after: int) -> None:
    """PostgreSQL would forget that the column sorts by its bytes."""
    postgres = op.get_bind().dialect.name == "postgresql"
    kind = sa.String(after, collation="C" if postgres else None)
    batch.alter_column(name, existing_type=sa.String(before), type_=kind)


def _pairs(table: str, owner: str, target: str) -> None:
    op.create_table(
        table,
        _owner(owner, target, table),
        sa.Column("key", sa.String(250), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _measured() -> list[sa.Column[object]]:
    return [
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("is_nan", sa.Boolean, nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
    ]


def _create_tracking() -> None:
    op.create_table(
        "experiment",
        sa.Column("id", sa.String(32), primary_key=True),
        _owner("namespace_id", "namespace.id", "experiment", primary=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("artifact_location", sa.Text, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("namespace_id", "number", name="uq_experiment_namespace_id_number"),
        sa.UniqueConstraint("namespace_id", "name", name="uq_experiment_namespace_id_name"),
    )
    _pairs("experiment_tag", "experiment_id", "experiment.id")
    _pairs("run_parameter", "run_id", "run.id")
    op.create_index("ix_run_parameter_key", "run_parameter", ["key", "run_id"])
    _pairs("run_tag", "run_id", "run.id")
    op.create_index("ix_run_tag_key", "run_tag", ["key", "run_id"])
    op.create_table(
        "run_metric",
        _owner("run_id", "run.id", "run_metric"),
        sa.Column("key", sa.String(250), primary_key=True),
        *_measured(),
    )
    op.create_index("ix_run_metric_key", "run_metric", ["key", "value"])
    op.create_table(
        "metric_point",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _owner("run_id", "run.id", "metric_point", primary=False),
        sa.Column("key", sa.String(250), nullable=False),
        *_measured(),
        sa.UniqueConstraint(
            "run_id", "key", "timestamp_ms", "step", "value", "is_nan",
            name="uq_metric_point_run_id_key_timestamp_ms_step_value_is_nan",
        ),
    )  # fmt: skip
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(32), primary_key=True),
        _owner("experiment_id", "experiment.id", "dataset", primary=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("source_type", sa.String(60), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("schema", sa.Text),
        sa.Column("profile", sa.Text),
        sa.UniqueConstraint(
            "experiment_id", "name", "digest", name="uq_dataset_experiment_id_name_digest"
        ),
    )
    op.create_table(
        "run_input",
        _owner("run_id", "run.id", "run_input"),
        _owner("dataset_id", "dataset.id", "run_input"),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("context", sa.String(500), nullable=False, server_default=""),
    )
    op.create_table(
        "run_model",
        _owner("run_id", "run.id", "run_model"),
        sa.Column("logged_model_id", sa.String(34), primary_key=True),
        sa.Column("direction", sa.String(10), primary_key=True),
        sa.Column("step", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_run_model_logged_model_id", "run_model", ["logged_model_id"])
    op.create_table(
        "logged_model",
        sa.Column("id", sa.String(34), primary_key=True),
        _owner("experiment_id", "experiment.id", "logged_model", primary=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("model_type", sa.String(500), nullable=False),
        sa.Column("source_run_id", sa.String(32)),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("status_message", sa.Text, nullable=False),
        sa.Column(
            "bundle_digest",
            sa.String(64),
            sa.ForeignKey("bundle.digest", name="fk_logged_model_bundle_digest"),
        ),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "ix_logged_model_experiment_id", "logged_model", ["experiment_id", "created_at"]
    )
    op.create_index("ix_logged_model_source_run_id", "logged_model", ["source_run_id"])
    _pairs("logged_model_parameter", "logged_model_id", "logged_model.id")
    _pairs("logged_model_tag", "logged_model_id", "logged_model.id")
    op.create_table(
        "logged_model_metric",
        _owner("logged_model_id", "logged_model.id", "logged_model_metric"),
        _owner("run_id", "run.id", "logged_model_metric"),
        sa.Column("key", sa.String(250), primary_key=True),
        sa.Column("dataset_name", sa.String(500), primary_key=True),
        sa.Column("dataset_digest", sa.String(64), primary_key=True),
        sa.Column("timestamp_ms", sa.BigInteger, primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("is_nan", sa.Boolean, nullable=False),
    )
    op.create_table(
        "artifact",
        _owner("namespace_id", "namespace.id", "artifact"),
        sa.Column("path", sa.String(1000), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_artifact_sha256", "artifact", ["sha256"])


def _move_runs(now: int) -> None:
    """Runs named their experiment and held parameters and metrics as documents."""
    run = sa.table(
        "run", *map(sa.column, ("id", "experiment", "parameters", "metrics", "created_at"))
    )
    connection = op.get_bind()
    rows = connection.execute(sa.select(run)).all()
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("experiment_id", sa.String(32)))
        batch.add_column(sa.Column("user", sa.String(250), nullable=False, server_default=""))
        batch.add_column(
            sa.Column("status", sa.String(20), nullable=False, server_default="FINISHED")
        )
        for name in ("started_at", "ended_at", "deleted_at"):
            batch.add_column(sa.Column(name, sa.BigInteger))
    numbers = {"default": (0, uuid.uuid4().hex)}
    for row in rows:
        numbers.setdefault(row.experiment, (len(numbers), uuid.uuid4().hex))
    for name, (number, key) in numbers.items():
        connection.execute(
            sa.text(
                "INSERT INTO experiment (id, namespace_id, number, name, artifact_location, "
                "created_at, updated_at) VALUES (:id, :ns, :number, :name, :place, :now, :now)"
            ),
            {
                "id": key, "ns": DEFAULT, "number": number,
                "name": "Default" if name == "default" else name,
                "place": f"mlflow-artifacts:/{number}", "now": now,
            },
        )  # fmt: skip
    for row in rows:
        connection.execute(
            sa.text(
                "UPDATE run SET experiment_id = :e, started_at = :ms, ended_at = :ms WHERE id = :id"
            ),
            {"e": numbers[row.experiment][1], "ms": row.created_at // 1000, "id": row.id},
        )
        for key, value in json.loads(row.parameters).items():
            connection.execute(
                sa.text("INSERT INTO run_parameter (run_id, key, value) VALUES (:r, :k, :v)"),
                {"r": row.id, "k": key, "v": value},
            )
        for key, value in json.loads(row.metrics).items():
            for table in ("run_metric", "metric_point"):
                connection.execute(
                    sa.text(
                        f"INSERT INTO {table} (run_id, key, value, is_nan, timestamp_ms, step) "
                        "VALUES (:r, :k, :v, :no, :ms, 0)"
                    ),
                    {"r": row.id, "k": key, "v": value, "no": False, "ms": row.created_at // 1000},
                )
    with op.batch_alter_table("run") as batch:
        batch.alter_column("experiment_id", existing_type=sa.String(32), nullable=False)
        _resize(batch, "name", 200, 250)
        batch.alter_column("user", existing_type=sa.String(250), server_default=None)
        batch.alter_column("status", existing_type=sa.String(20), server_default=None)
        batch.create_foreign_key("fk_run_experiment_id", "experiment", ["experiment_id"], ["id"])
        for name in ("experiment", "parameters", "metrics"):
            batch.drop_column(name)
        batch.create_index("ix_run_experiment_id", ["experiment_id", "started_at"])


def _change_models(now: int) -> None:
    connection = op.get_bind()
    model = sa.table("model", *map(sa.column, ("id", "tags")))
    tags = connection.execute(sa.select(model.c.id, model.c.tags)).all()
    with op.batch_alter_table("model") as batch:
        batch.add_column(sa.Column("namespace_id", sa.String(32)))
        batch.add_column(sa.Column("updated_at", sa.BigInteger))
        batch.drop_column("tags")
    op.execute(sa.text("UPDATE model SET namespace_id = :ns").bindparams(ns=DEFAULT))
    op.execute(sa.text("UPDATE model SET updated_at = created_at"))
    with op.batch_alter_table("model") as batch:
        batch.alter_column("namespace_id", existing_type=sa.String(32), nullable=False)
        batch.alter_column("updated_at", existing_type=sa.BigInteger(), nullable=False)
        _resize(batch, "name", 200, 250)
        batch.drop_constraint("uq_model_name", type_="unique")
        batch.create_unique_constraint("uq_model_namespace_id_name", ["namespace_id", "name"])
        batch.create_foreign_key("fk_model_namespace_id", "namespace", ["namespace_id"], ["id"])
    _pairs("model_tag", "model_id", "model.id")
    for row in tags:
        for key, value in json.loads(row.tags).items():
            connection.execute(
                sa.text("INSERT INTO model_tag (model_id, key, value) VALUES (:m, :k, :v)"),
                {"m": row.id, "k": key, "v": value},
            )
    _search_index("model_tag", "model_id")


def _search_index(table: str, owner: str) -> None:
    op.create_index(f"ix_{table}_search", table, ["key", sa.text("substr(value, 1, 80)"), owner])


@contextmanager
def _altered_versions() -> Iterator[BatchOperations]:
    """SQLite builds the table anew: numbers that were given to versions are never given again."""
    connection = op.get_bind()
    last = None
    if connection.dialect.name == "sqlite":
        given = sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'model_version'")
        last = connection.execute(given).scalar()
    options = {"sqlite_autoincrement": True}
    with op.batch_alter_table("model_version", table_kwargs=options) as batch:
        yield batch
    if last is not None:
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'model_version'"))
        connection.execute(
            sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('model_version', :seq)"),
            {"seq": last},
        )


def _change_versions() -> None:
    with _altered_versions() as batch:
        batch.add_column(sa.Column("updated_at", sa.BigInteger))
        for name, size in (("stage", 60), ("lifecycle", 20)):
            default = "active" if name == "lifecycle" else ""
            batch.add_column(
                sa.Column(name, sa.String(size), nullable=False, server_default=default)
            )
        for name in ("description", "lifecycle_reason", "source_uri", "run_link"):
            batch.add_column(sa.Column(name, sa.Text, nullable=False, server_default=""))
        batch.add_column(sa.Column("logged_model_id", sa.String(34)))
        batch.add_column(sa.Column("code", sa.Text))
        batch.add_column(sa.Column("hardware", sa.Text))
        batch.alter_column("bundle_digest", existing_type=sa.String(64), nullable=True)
        batch.alter_column("info", existing_type=sa.Text(), nullable=True)
        batch.drop_constraint("fk_model_version_run_id", type_="foreignkey")
    op.execute(sa.text("UPDATE model_version SET updated_at = created_at"))
    with _altered_versions() as batch:
        batch.alter_column("updated_at", existing_type=sa.BigInteger(), nullable=False)
    op.create_index("ix_model_version_run_id", "model_version", ["run_id"])
    op.create_index("ix_model_version_bundle_digest", "model_version", ["bundle_digest"])
    op.create_index("ix_model_version_stage", "model_version", ["model_id", "stage"])
    _pairs("version_tag", "version_id", "model_version.id")
    _search_index("version_tag", "version_id")
    with op.batch_alter_table("alias") as batch:
        _resize(batch, "name", 100, 250)
        batch.add_column(
            sa.Column("protected", sa.Boolean, nullable=False, server_default=sa.false())
        )
    op.create_index("ix_alias_version_id", "alias", ["version_id"])


def downgrade() -> None:
    """What the old schema can't hold is lost: other namespaces, histories, logged models, tags of
    versions, versions without a bundle."""
    connection = op.get_bind()
    _restore_versions(connection)
    _restore_models(connection)
    _restore_runs(connection)
    for table in (
        "artifact", "logged_model_metric", "logged_model_tag", "logged_model_parameter",
        "logged_model", "run_model", "run_input", "dataset", "metric_point", "run_metric",
        "run_tag", "run_parameter", "experiment_tag", "experiment", "stage", "namespace",
    ):  # fmt: skip
        op.drop_table(table)


def _restore_versions(connection: sa.Connection) -> None:
    gone = (
        "SELECT v.id FROM model_version v JOIN model m ON m.id = v.model_id "
        f"WHERE v.info IS NULL OR m.namespace_id <> '{DEFAULT}'"
    )
    for table in ("alias", "variant", "reference"):
        op.execute(sa.text(f"DELETE FROM {table} WHERE version_id IN ({gone})"))
    op.drop_table("version_tag")
    op.execute(sa.text(f"DELETE FROM model_version WHERE id IN ({gone})"))
    op.drop_index("ix_alias_version_id", "alias")
    with op.batch_alter_table("alias") as batch:
        batch.drop_column("protected")
        _resize(batch, "name", 250, 100)
    op.execute(
        sa.text("UPDATE model_version SET run_id = NULL WHERE run_id NOT IN (SELECT id FROM run)")
    )
    for name in ("run_id", "bundle_digest", "stage"):
        op.drop_index(f"ix_model_version_{name}", "model_version")
    with _altered_versions() as batch:
        for name in (
            "updated_at", "stage", "lifecycle", "description", "lifecycle_reason", "source_uri",
            "run_link", "logged_model_id", "code", "hardware",
        ):  # fmt: skip
            batch.drop_column(name)
        batch.alter_column("bundle_digest", existing_type=sa.String(64), nullable=False)
        batch.alter_column("info", existing_type=sa.Text(), nullable=False)
        batch.create_foreign_key("fk_model_version_run_id", "run", ["run_id"], ["id"])


def _restore_models(connection: sa.Connection) -> None:
    tags: dict[str, dict[str, str]] = {}
    for row in connection.execute(sa.text("SELECT model_id, key, value FROM model_tag")):
        tags.setdefault(row.model_id, {})[row.key] = row.value
    op.drop_table("model_tag")
    op.execute(sa.text("DELETE FROM model WHERE namespace_id <> :ns").bindparams(ns=DEFAULT))
    with op.batch_alter_table("model") as batch:
        batch.add_column(sa.Column("tags", sa.Text, nullable=False, server_default="{}"))
        batch.drop_constraint("uq_model_namespace_id_name", type_="unique")
        batch.drop_constraint("fk_model_namespace_id", type_="foreignkey")
        batch.create_unique_constraint("uq_model_name", ["name"])
        _resize(batch, "name", 250, 200)
        batch.drop_column("namespace_id")
        batch.drop_column("updated_at")
    for model_id, own in tags.items():
        connection.execute(
            sa.text("UPDATE model SET tags = :tags WHERE id = :id"),
            {"tags": _document(own), "id": model_id},
        )
    with op.batch_alter_table("model") as batch:
        batch.alter_column("tags", existing_type=sa.Text(), server_default=None)


def _restore_runs(connection: sa.Connection) -> None:
    gone = (
        "SELECT r.id FROM run r JOIN experiment e ON e.id = r.experiment_id "
        f"WHERE e.namespace_id <> '{DEFAULT}'"
    )
    runs = connection.execute(
        sa.text("SELECT r.id, e.name FROM run r JOIN experiment e ON e.id = r.experiment_id")
    ).all()
    documents: dict[str, tuple[dict[str, str], dict[str, float]]] = {}
    for column, table in enumerate(("run_parameter", "run_metric")):
        for row in connection.execute(sa.text(f"SELECT run_id, key, value FROM {table}")):
            documents.setdefault(row.run_id, ({}, {}))[column][row.key] = row.value
    for table in ("run_parameter", "run_metric", "metric_point", "run_tag", "run_input",
                  "run_model", "logged_model_metric"):  # fmt: skip
        op.execute(sa.text(f"DELETE FROM {table} WHERE run_id IN ({gone})"))
    op.execute(sa.text(f"DELETE FROM run WHERE id IN ({gone})"))
    with op.batch_alter_table("run") as batch:
        batch.drop_index("ix_run_experiment_id")
        batch.drop_constraint("fk_run_experiment_id", type_="foreignkey")
        batch.add_column(sa.Column("experiment", sa.String(200), nullable=False, server_default=""))
        for name in ("parameters", "metrics"):
            batch.add_column(sa.Column(name, sa.Text, nullable=False, server_default="{}"))
        for name in ("experiment_id", "user", "status", "started_at", "ended_at", "deleted_at"):
            batch.drop_column(name)
        _resize(batch, "name", 250, 200)
    for row in runs:
        parameters, metrics = documents.get(row.id, ({}, {}))
        connection.execute(
            sa.text("UPDATE run SET experiment = :e, parameters = :p, metrics = :m WHERE id = :id"),
            {
                "e": "default" if row.name == "Default" else row.name, "id": row.id,
                "p": _document(parameters), "m": _document(metrics),
            },
        )  # fmt: skip
    with op.batch_alter_table("run") as batch:
        for name in ("experiment", "parameters", "metrics"):
            batch.alter_column(name, existing_type=sa.Text(), server_default=None)
