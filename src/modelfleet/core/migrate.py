"""Bringing a database to the schema of this release, by Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(database: Database, revision: str = "head") -> None:
    """Upgrade to `revision`. A database of a newer release is refused, untouched."""
    config = configuration()
    script = ScriptDirectory.from_config(config)
    with database.engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    if present == script.get_current_head() and revision == "head":
        return
    if present is not None and present not in {one.revision for one in script.walk_revisions()}:
        raise Conflict(
            f"The database has the schema {present}, which this release does not know.",
            hint="Install the release that wrote it, or a newer one.",
        )
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
