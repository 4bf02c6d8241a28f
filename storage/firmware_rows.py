"""Firmware versions and keys as rows, for people's commands; what changes them takes its turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg

from config.settings import DatabaseSettings
from ota.firmware import Key, Version
from storage.command_connection import command_connection
from storage.refusals import Conflict, NotFound

FIRMWARE_LOCK = int.from_bytes(b"firmware")
"""Two people must not get one sequence number."""

ROW = f"SELECT status::text, recalled_at IS NOT NULL, {', '.join(Version._fields)} FROM ota_versions"  # noqa: S608 - our constant


class Row(NamedTuple):
    """A version, and where it stands."""

    status: str
    """draft, released or deprecated."""
    recalled: bool
    version: Version


@contextmanager
def firmware_change(settings: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """Opens a connection with a transaction in which nobody else changes firmware; committed at the end.

    Raises:
        As `storage.command_connection.command_connection`.
    """
    with command_connection(settings) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [FIRMWARE_LOCK])
        yield connection


def find_row(connection: psycopg.Connection, version: str) -> Row | None:
    """Returns a version by its name, or None."""
    found = connection.execute(f"{ROW} WHERE version = %s".encode(), [version.replace("\0", "")]).fetchone()
    return Row(found[0], found[1], Version(*found[2:])) if found is not None else None


def load_row(connection: psycopg.Connection, version: str) -> Row:
    """Returns a version by its name.

    Raises:
        NotFound: there is none.
    """
    row = find_row(connection, version)
    if row is None:
        raise NotFound(
            f"there is no firmware {version[:60]}; factoryd firmware list shows all, factoryd firmware add makes one"
        )
    return row


def load_draft(connection: psycopg.Connection, version: str) -> Version:
    """Returns a version that is not released.

    Raises:
        NotFound: there is none.
        Conflict: it is released.
    """
    row = load_row(connection, version)
    if row.status != "draft":
        raise Conflict(f"firmware {version} is {row.status}: what was released stays as it is; add a new version")
    return row.version


def load_others(connection: psycopg.Connection, version: Version) -> list[Row]:
    """Returns all other versions."""
    rows = connection.execute(f"{ROW} WHERE id <> %s ORDER BY id".encode(), [version.id]).fetchall()
    return [Row(row[0], row[1], Version(*row[2:])) for row in rows]


def load_keys(connection: psycopg.Connection) -> list[Key]:
    """Returns all keys."""
    return [Key(*row) for row in connection.execute("SELECT keyid, public_key, status FROM ota_keys ORDER BY created_at")]
