"""Brings the schema to the revision this version needs, and tells whether it is there.

Revisions are numbers. A database newer than this version is fine: version N runs on schema N+1, so a new
version can migrate while the old one still runs, and a version can be rolled back without its schema.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import errors
from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from storage.maintenance import SchemaError, maintenance_connection

# Another migrator may take a while; a lock on a table must not be waited for long: writers queue behind us.
TURN_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 3.0
# A revision may rewrite or index a large table.
STATEMENT_TIMEOUT_S = 600.0
# Any number, known to all versions: two migrators take their turns. Not the leader's: migrating does not stop the daemon.
MIGRATION_LOCK = int.from_bytes(b"migrator")


class SchemaOutdated(SchemaError):
    """The database's schema is older than this version needs."""


def current_revision(url: str) -> str | None:
    """Returns the database's revision, e.g. "0004"; None if it has never been migrated.

    Raises:
        DatabaseUnavailable: no connection.
        SchemaError: the role may not read the revision.
    """
    with maintenance_connection(url) as connection:
        return _read_revision(connection)


def head_revision() -> str:
    """Returns the revision this version needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "there is at least one revision"
    return head


def check_schema(url: str) -> str:
    """Returns the database's revision if this version can run on it: its own or any newer one.

    Raises:
        SchemaOutdated: the schema is missing or older.
        SchemaError: the role may not read the revision.
        DatabaseUnavailable: no connection.
    """
    current, needed = current_revision(url), head_revision()
    if current is None or int(current) < int(needed):
        raise SchemaOutdated(f"schema is {current or 'missing'}, needs {needed}: run factoryd migrate")
    return current


def upgrade(owner_url: str, revision: str | None = None) -> list[str]:
    """Migrates in one transaction, under a lock; does nothing on a database that is there already or newer.

    Args:
        owner_url: a connection as the owner of the schema.
        revision: stop at this one; default: the one this version needs.

    Returns:
        The revisions applied, oldest first.

    Raises:
        SchemaError: a role is missing, a right is missing, or a lock was not granted; nothing was changed.
        DatabaseUnavailable: no connection.
    """
    target = revision or head_revision()
    limits = {"lock_timeout_s": TURN_TIMEOUT_S, "statement_timeout_s": STATEMENT_TIMEOUT_S}
    with maintenance_connection(owner_url, **limits) as connection, _explained():
        connection.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
        return _upgrade_locked(connection, target)


def upgrade_sql() -> str:
    """Returns the SQL of all revisions, from an empty database, for people who run it themselves."""
    output = io.StringIO()
    config = _config()
    config.output_buffer = output
    command.upgrade(config, "head", sql=True)
    return output.getvalue()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except errors.LockNotAvailable as error:
        raise SchemaError(
            "migration stopped, nothing was changed: a lock was not granted in time (another migration or a long "
            "transaction holds it): end that one and run factoryd migrate again"
        ) from error
    except (errors.UndefinedObject, errors.InsufficientPrivilege) as error:
        raise SchemaError(
            f"migration stopped, nothing was changed: {error.diag.message_primary}: run factoryd init first, "
            "and migrate with the owner's URL"
        ) from error


def _upgrade_locked(connection: psycopg.Connection, target: str) -> list[str]:
    before = _read_revision(connection)
    if before is not None and int(before) >= int(target):
        return []
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S:g}s'")
    connection.autocommit = False
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=NullPool)
    with engine.connect() as borrowed:
        _run_alembic(borrowed, target)
    return _revisions_between(before, target)


def _run_alembic(connection: Connection, target: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, target)
    except DBAPIError as error:
        raise error.orig or error from error


def _revisions_between(before: str | None, target: str) -> list[str]:
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    known = sorted(script.revision for script in scripts)
    return [number for number in known if int(before or 0) < int(number) <= int(target)]


def _read_revision(connection: psycopg.Connection) -> str | None:
    try:
        row = connection.execute("SELECT to_regclass('public.alembic_version')").fetchone()
        if row is None or row[0] is None:
            return None
        row = connection.execute("SELECT version_num FROM public.alembic_version").fetchone()
    except errors.InsufficientPrivilege as error:
        raise SchemaError(
            "this role may not read the schema's revision (alembic_version): "
            "connect as factoryd_daemon, or run factoryd init and factoryd migrate"
        ) from error
    return row[0] if row else None


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
