"""Histories of the metrics of logged models; what for a run read a dataset"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nothing wrote into this table before.
    op.drop_table("logged_model_metric")
    _create(history=True)
    op.add_column(
        "run_input", sa.Column("context", sa.String(500), nullable=False, server_default="")
    )


def downgrade() -> None:
    """Metrics of logged models are lost; those of their runs stay."""
    with op.batch_alter_table("run_input") as batch:
        batch.drop_column("context")
    op.drop_table("logged_model_metric")
    _create(history=False)


def _create(history: bool) -> None:
    op.create_table(
        "logged_model_metric",
        sa.Column(
            "logged_model_id",
            sa.String(34),
            sa.ForeignKey("logged_model.id", name="fk_logged_model_metric_logged_model_id"),
            primary_key=True,
        ),
        sa.Column(
            "run_id",
            sa.String(32),
            sa.ForeignKey("run.id", name="fk_logged_model_metric_run_id"),
            primary_key=True,
        ),
        sa.Column("key", sa.String(250), primary_key=True),
        sa.Column("dataset_name", sa.String(500), primary_key=True),
        sa.Column("dataset_digest", sa.String(64), primary_key=True),
        sa.Column("timestamp_ms", sa.BigInteger, primary_key=history, nullable=False),
        sa.Column("step", sa.BigInteger, primary_key=history, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("is_nan", sa.Boolean, nullable=False),
    )
