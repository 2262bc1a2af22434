"""Runs migrations on the connection, and in the transaction, of `core.migrate`."""

from alembic import context

from modelfleet.core.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
