"""Approvals, freeze windows, groups of rollouts, arms; what a rollout adds to a traffic policy"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "approval",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("digests", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("quorum", sa.Integer(), nullable=False),
        sa.Column("team", sa.String(length=120), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("not_by", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval")),
    )
    op.create_index("ix_approval_subject", "approval", ["subject"])
    op.create_index("ix_approval_state", "approval", ["state"])
    op.create_table(
        "approval_answer",
        sa.Column("approval_id", sa.String(length=32), nullable=False),
        sa.Column("principal_id", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("decision", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["approval_id"], ["approval.id"], name=op.f("fk_approval_answer_approval_id")
        ),
        sa.PrimaryKeyConstraint("approval_id", "principal_id", name=op.f("pk_approval_answer")),
    )
    op.create_table(
        "freeze",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("team", sa.String(length=120), nullable=False),
        sa.Column("endpoint", sa.String(length=200), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_freeze")),
        sa.UniqueConstraint("name", name=op.f("uq_freeze_name")),
    )
    op.add_column("endpoint", sa.Column("overlay", sa.Text(), nullable=False, server_default="{}"))
    for name, kind, default in (
        ("revision", sa.Integer(), "0"),
        ("attempt", sa.Integer(), "1"),
        ("retry_of", sa.String(length=32), ""),
        ("group_id", sa.String(length=32), ""),
        ("after", sa.Text(), "[]"),
        ("arms", sa.Text(), "[]"),
        ("notes", sa.Text(), "{}"),
        ("waits", sa.Text(), ""),
    ):
        op.add_column("rollout", sa.Column(name, kind, nullable=False, server_default=default))
    op.create_index("ix_rollout_group_id", "rollout", ["group_id"])
    op.create_index(
        "uq_rollout_active",
        "rollout",
        ["endpoint_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    with op.batch_alter_table("rollout_evidence") as batch:
        batch.add_column(sa.Column("arm", sa.Integer(), nullable=False, server_default="0"))
        batch.drop_constraint("pk_rollout_evidence", type_="primary")
        batch.create_primary_key("pk_rollout_evidence", ["rollout_id", "tick", "arm"])


def downgrade() -> None:
    op.execute("DELETE FROM rollout_evidence WHERE arm > 0")
    with op.batch_alter_table("rollout_evidence") as batch:
        batch.drop_constraint("pk_rollout_evidence", type_="primary")
        batch.drop_column("arm")
        batch.create_primary_key("pk_rollout_evidence", ["rollout_id", "tick"])
    op.drop_index("uq_rollout_active", "rollout")
    op.drop_index("ix_rollout_group_id", "rollout")
    for name in ("waits", "notes", "arms", "after", "group_id", "retry_of", "attempt", "revision"):
        op.drop_column("rollout", name)
    op.drop_column("endpoint", "overlay")
    op.drop_table("freeze")
    op.drop_table("approval_answer")
    op.drop_index("ix_approval_state", "approval")
    op.drop_index("ix_approval_subject", "approval")
    op.drop_table("approval")
