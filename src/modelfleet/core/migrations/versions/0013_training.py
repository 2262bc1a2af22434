"""Training runs and what triggers them; the gates of rollouts"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("owner_team", sa.String(length=120), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("version", sa.String(length=120), nullable=True),
        sa.Column("rollout_id", sa.String(length=32), nullable=True),
        sa.Column("actor_id", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.String(length=80), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training")),
    )
    op.create_index("ix_training_model", "training", ["model", "created_at"])
    op.create_index("ix_training_state", "training", ["state"])
    op.create_table(
        "training_position",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("alerts_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_position")),
    )
    op.create_table(
        "training_schedule",
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("expression", sa.String(length=200), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_training_schedule")),
    )
    op.create_table(
        "training_cause",
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_training_cause")),
    )
    op.create_table(
        "rollout_gates",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("version_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "version_id", name=op.f("pk_rollout_gates")),
    )


def downgrade() -> None:
    op.drop_table("rollout_gates")
    op.drop_table("training_cause")
    op.drop_table("training_schedule")
    op.drop_table("training_position")
    op.drop_table("training")
