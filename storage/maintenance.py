"""Synchronous connections for work beside the write path: migrations, roles, partitions.

Each function opens its connection, does its work and closes it; nothing is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from storage.database import DEAD_PEER_OPTIONS, translated

CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 30.0
APPLICATION = "factoryd-maintenance"


class SchemaError(RuntimeError):
    """The schema, or a right to it, is not what is needed; the text says what to do."""


@contextmanager
def maintenance_connection(
    url: str, *, lock_timeout_s: float = 0, statement_timeout_s: float = STATEMENT_TIMEOUT_S
) -> Iterator[psycopg.Connection]:
    """Opens an autocommit connection, closed at the end.

    Args:
        url: postgresql://user:password@host:port/database, or any libpq connection string.
        lock_timeout_s: longest wait for any one lock in seconds; 0 waits as long as a statement may take.
        statement_timeout_s: longest time for any one statement in seconds: these run in threads, which nobody can cancel.

    Raises:
        DatabaseUnavailable: the connection could not be made, or was lost, or a statement took too long.
    """
    options: dict[str, str | int] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": APPLICATION, **DEAD_PEER_OPTIONS}
    with (
        translated("using the database"),
        psycopg.connect(make_conninfo(url, **options), autocommit=True) as connection,
    ):
        for name, seconds in (("lock_timeout", lock_timeout_s), ("statement_timeout", statement_timeout_s)):
            connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), f"{round(seconds * 1000)}ms"))
        yield connection
