"""Synchronous connections for work beside the write path: migrations, roles, partitions.

Each function opens its connection, does its work and closes it; nothing is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from storage.database import translated

CONNECT_TIMEOUT_S = 10
APPLICATION = "factoryd-maintenance"


class SchemaError(RuntimeError):
    """The schema, or a right to it, is not what is needed; the text says what to do."""


@contextmanager
def maintenance_connection(url: str, *, lock_timeout_s: float = 0) -> Iterator[psycopg.Connection]:
    """Opens an autocommit connection, closed at the end.

    Args:
        url: postgresql://user:password@host:port/database, or any libpq connection string.
        lock_timeout_s: longest wait for any one lock in seconds; 0 waits without bound.

    Raises:
        DatabaseUnavailable: the connection could not be made, or was lost.
    """
    with (
        translated("using the database"),
        psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name=APPLICATION) as connection,
    ):
        connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{round(lock_timeout_s * 1000)}ms"))
        yield connection
