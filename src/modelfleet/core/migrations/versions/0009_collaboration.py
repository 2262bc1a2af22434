"""Owners, watchers, comments, reviews and templates; from versions to where they are deployed"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_owner",
        sa.Column("model_id", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("added_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_model_owner_model_id_model")
        ),
        sa.PrimaryKeyConstraint("model_id", "principal", name=op.f("pk_model_owner")),
    )
    op.create_table(
        "model_watcher",
        sa.Column("model_id", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_model_watcher_model_id_model")
        ),
        sa.PrimaryKeyConstraint("model_id", "principal", name=op.f("pk_model_watcher")),
    )
    op.create_table(
        "version_comment",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("version_id", sa.String(length=32), nullable=False),
        sa.Column("author_id", sa.String(length=64), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("edited_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_version.id"],
            name=op.f("fk_version_comment_version_id_model_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_comment")),
    )
    op.create_index("ix_version_comment_version_id", "version_comment", ["version_id"])
    op.create_table(
        "version_review",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("version_id", sa.String(length=32), nullable=False),
        sa.Column("requested_by_id", sa.String(length=64), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("reviewer", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("answered_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_version.id"],
            name=op.f("fk_version_review_version_id_model_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_review")),
    )
    op.create_index("ix_version_review_version_id", "version_review", ["version_id"])
    op.create_index("ix_version_review_state", "version_review", ["state"])
    op.create_table(
        "model_template",
        sa.Column("namespace_id", sa.String(length=32), nullable=False),
        sa.Column("team", sa.String(length=120), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("defaults", sa.Text(), nullable=False),
        sa.Column("updated_by", sa.String(length=200), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespace.id"],
            name=op.f("fk_model_template_namespace_id_namespace"),
        ),
        sa.PrimaryKeyConstraint("namespace_id", "team", "name", name=op.f("pk_model_template")),
    )
    op.create_table(
        "model_default",
        sa.Column("model_id", sa.String(length=32), nullable=False),
        sa.Column("template", sa.String(length=120), nullable=False),
        sa.Column("requirements", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_model_default_model_id_model")
        ),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model_default")),
    )
    op.execute(
        sa.text(
            "INSERT INTO edge (source_kind, source, destination_kind, destination, relation, "
            "created_at) SELECT DISTINCT 'version', m.name || '@' || v.semver, 'endpoint', e.name, "
            "'deployed-to', e.created_at FROM route r JOIN endpoint e ON e.id = r.endpoint_id "
            "JOIN model_version v ON v.id = r.version_id JOIN model m ON m.id = v.model_id"
        )
    )


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM edge WHERE relation = 'deployed-to'"))
    op.drop_table("model_default")
    op.drop_table("model_template")
    op.drop_index("ix_version_review_state", table_name="version_review")
    op.drop_index("ix_version_review_version_id", table_name="version_review")
    op.drop_table("version_review")
    op.drop_index("ix_version_comment_version_id", table_name="version_comment")
    op.drop_table("version_comment")
    op.drop_table("model_watcher")
    op.drop_table("model_owner")
