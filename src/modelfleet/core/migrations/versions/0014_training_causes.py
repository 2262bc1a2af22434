"""Causes of training that came too soon"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training_cause",
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_training_cause")),
    )


def downgrade() -> None:
    op.drop_table("training_cause")
