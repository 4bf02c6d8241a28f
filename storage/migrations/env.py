"""Run by Alembic for each command: on `storage.migrate`'s connection, or offline to print the SQL."""

from alembic import context
from sqlalchemy import Connection

from storage.models import Base


def run_migrations(connection: Connection | None) -> None:
    """Runs in one transaction: a failed revision leaves the schema as it was."""
    if connection is None:
        context.configure(
            dialect_name="postgresql",
            literal_binds=True,
            dialect_opts={"paramstyle": "named"},
            output_buffer=context.config.output_buffer,
        )
    else:
        context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


run_migrations(context.config.attributes.get("connection"))
