"""Pipelines"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pipeline",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("owner_team", sa.String(length=120), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("applied_revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline")),
        sa.UniqueConstraint("name", name=op.f("uq_pipeline_name")),
    )
    op.create_table(
        "pipeline_revision",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("pipeline_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipeline.id"], name=op.f("fk_pipeline_revision_pipeline_id")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_pipeline_revision")),
        sa.UniqueConstraint(
            "pipeline_id", "revision", name=op.f("uq_pipeline_revision_pipeline_id_revision")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "pipeline_use",
        sa.Column("pipeline_id", sa.String(length=32), nullable=False),
        sa.Column("endpoint", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipeline.id"], name=op.f("fk_pipeline_use_pipeline_id")
        ),
        sa.PrimaryKeyConstraint("pipeline_id", "endpoint", name=op.f("pk_pipeline_use")),
    )
    with op.batch_alter_table("pipeline_use", schema=None) as batch_op:
        batch_op.create_index("ix_pipeline_use_endpoint", ["endpoint"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("pipeline_use", schema=None) as batch_op:
        batch_op.drop_index("ix_pipeline_use_endpoint")

    op.drop_table("pipeline_use")
    op.drop_table("pipeline_revision")
    op.drop_table("pipeline")
