"""Isolation of models; versions that are not run any more"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "model",
        sa.Column("isolation", sa.String(length=20), nullable=False, server_default="shared"),
    )
    op.create_table(
        "quarantine",
        sa.Column("version_index", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=True),
    )


def downgrade() -> None:
    op.drop_table("quarantine")
    op.drop_column("model", "isolation")
