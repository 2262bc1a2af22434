"""Gates that are asked for, and data sets with versions"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "data_set",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("owner_team", sa.String(length=120), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_set")),
        sa.UniqueConstraint("name", name=op.f("uq_data_set_name")),
    )
    op.create_table(
        "data_set_version",
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=20), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("columns", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["data_set.id"],
            name=op.f("fk_data_set_version_dataset_id_data_set"),
        ),
        sa.PrimaryKeyConstraint("dataset_id", "version", name=op.f("pk_data_set_version")),
        sa.UniqueConstraint(
            "dataset_id", "sha256", name=op.f("uq_data_set_version_dataset_id_sha256")
        ),
    )
    op.create_table(
        "gate_request",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("version_id", sa.String(length=32), nullable=False),
        sa.Column("champion_id", sa.String(length=32), nullable=True),
        sa.Column("gates", sa.Text(), nullable=False),
        sa.Column("requested_by_id", sa.String(length=64), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_request")),
    )
    op.create_index("ix_gate_request_version_id", "gate_request", ["version_id"])
    for column in (
        sa.Column("kind", sa.String(length=60), nullable=False, server_default=""),
        sa.Column("seconds", sa.Float(), nullable=False, server_default="0"),
        sa.Column("champion", sa.String(length=400), nullable=False, server_default=""),
        sa.Column("spec", sa.Text(), nullable=True),
    ):
        op.add_column("gate_run", column)


def downgrade() -> None:
    for name in ("kind", "seconds", "champion", "spec"):
        op.drop_column("gate_run", name)
    op.drop_index("ix_gate_request_version_id", "gate_request")
    for table in ("gate_request", "data_set_version", "data_set"):
        op.drop_table(table)
