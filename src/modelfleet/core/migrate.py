"""Bringing a database to the schema of this release, by Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict

if TYPE_CHECKING:
    from alembic.config import Config

_FOLDER = Path(__file__).parent / "migrations"


def revisions() -> list[str]:
    """The revisions that this release knows, oldest first: `0001`, `0002`, ..."""
    return sorted(path.name[:4] for path in (_FOLDER / "versions").glob("[0-9]*.py"))


def configuration() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    return config


def migrate(database: Database) -> None:
    """Upgrade to the present schema. A database of a newer release is refused, untouched."""
    known, present = revisions(), current(database)
    if present == known[-1]:
        return  # and Alembic, which takes half a second to import, is not needed
    if present is not None and present not in known:
        raise Conflict(
            f"The database has the schema {present}, which this release does not know.",
            hint="Install the release that wrote it, or a newer one.",
        )
    with database.begin(rebuild=True) as connection:
        if revision_of(connection) != known[-1]:  # else a peer did it meanwhile
            _refuse_under_others(database, connection)
            upgrade_to(connection, "head")


def _refuse_under_others(database: Database, connection: sa.Connection) -> None:
    """An earlier release must not go on over a schema that it does not know."""
    if not database.is_postgres or not sa.inspect(connection).has_table("member"):
        return
    living = sa.text("SELECT address FROM member WHERE expires_at > :now LIMIT 1")
    found = connection.execute(living, {"now": database.now_us(connection)}).first()
    if found is not None:
        raise Conflict(
            f"A control plane of an earlier release still uses this database ({found.address}).",
            hint="Stop it first: one release at a time.",
        )


def upgrade_to(connection: sa.Connection, revision: str) -> None:
    """In the caller's transaction, which is a rebuilding one. revision: of `revisions`, or head."""
    from alembic import command

    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def downgrade_to(connection: sa.Connection, revision: str) -> None:
    """Back to an earlier schema, or to `base`. What only the later one can hold is lost."""
    from alembic import command

    config = configuration()
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


def current(database: Database) -> str | None:
    """The revision of the database; None if it is empty."""
    with database.read() as connection:
        return revision_of(connection)


def revision_of(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(
        sa.text("SELECT version_num FROM alembic_version")
    ).scalar()
    return found
