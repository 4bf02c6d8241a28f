"""Synchronous connections for people's commands: the daemon's URL, short waits, errors in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from config.loading import ConfigError
from config.settings import DatabaseSettings
from storage.database import connection_options, one_line, translated
from storage.maintenance import SchemaError
from storage.refusals import InvalidInput

APPLICATION = "factoryd command"

REGISTRY_LOCK = int.from_bytes(b"registry")
"""Changes of the registry take their turns, so that two of them cannot close a circle of gateways."""


@contextmanager
def command_connection(settings: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """Opens an autocommit connection with database.url, closed at the end.

    Raises:
        ConfigError: database.url is not set.
        DatabaseUnavailable: no connection, or it was lost: try again.
        SchemaError: a table or a right is missing.
        InvalidInput: a value that no column takes.
    """
    if settings.url is None:
        raise ConfigError("database.url: not set; give it in the settings file or in FACTORYD_DATABASE__URL")
    options = connection_options(settings, APPLICATION)
    with (
        translated("using the database"),
        _explained(),
        psycopg.connect(settings.url.get_secret_value(), autocommit=True, **options) as connection,
    ):
        yield connection


def database_name(settings: DatabaseSettings) -> str:
    """Returns the name of our database.

    Raises:
        ConfigError: database.url is not set.
    """
    if settings.url is None:
        raise ConfigError("database.url: not set; give it in the settings file or in FACTORYD_DATABASE__URL")
    parts = conninfo_to_dict(settings.url.get_secret_value())
    return str(parts.get("dbname") or parts.get("user") or "postgres")


@contextmanager
def registry_change(settings: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """Opens a connection with a transaction in which nobody else changes the registry; committed at the end.

    Raises:
        As `command_connection`.
    """
    with command_connection(settings) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [REGISTRY_LOCK])
        yield connection


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (errors.UndefinedTable, errors.UndefinedColumn) as error:
        raise SchemaError(
            f"the schema is missing or older than this version: {_primary(error)}: run factoryd migrate"
        ) from error
    except errors.InsufficientPrivilege as error:
        raise SchemaError(f"{_primary(error)}: use the URL of the role factoryd_daemon") from error
    except (errors.DataError, errors.IntegrityError, UnicodeEncodeError) as error:
        raise InvalidInput(f"the database refuses this value: {_primary(error)}") from error


def _primary(error: Exception) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return one_line(error)
