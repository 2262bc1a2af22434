"""Control planes of one database, and which of them runs a job"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "member",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("fleet", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=200), nullable=False),
        sa.Column("joined_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_member")),
    )
    op.add_column("job", sa.Column("owner", sa.String(length=80), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "owner")
    op.drop_table("member")
