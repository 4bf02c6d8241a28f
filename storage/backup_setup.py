"""`factoryd backup init`: looks at the server, says what is to be done, and does it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict

from config.storage_settings import BackupSettings
from storage.backup import Identity
from storage.backup_answers import BackupError
from storage.backup_config import HEAD, Change, Cluster, S3Keys, render, server_changes
from storage.maintenance import SchemaError, maintenance_connection
from storage.refusals import Conflict, InvalidInput

CLUSTER = """
    SELECT current_setting('data_directory'), current_setting('port')::int, current_setting('unix_socket_directories'),
        (SELECT rolname FROM pg_roles WHERE oid = 10)"""  # 10: the superuser that initdb made
SETTINGS = """
    SELECT name, setting, pending_restart FROM pg_settings
    WHERE name IN ('wal_level', 'archive_mode', 'archive_command', 'archive_timeout')"""
WRITTEN = "SELECT setting FROM pg_file_settings WHERE name = %s ORDER BY seqno DESC LIMIT 1"
HIDDEN = "(disabled)"
"""Shown as the archive_command while archive_mode is off."""
DIRECTORY_MODE = 0o750


@dataclass(frozen=True, slots=True)
class Server:
    """What a running server says of itself."""

    cluster: Cluster
    archives: bool
    """Whether archive_mode is on, as it runs now."""
    waits_for_restart: bool
    changes: tuple[Change, ...]
    """Of its settings; nothing that was changed before and waits for the restart."""


def look_at_server(admin_url: str, settings: BackupSettings) -> Server:
    """Asks the server where it is and what must change.

    Raises:
        DatabaseUnavailable: no connection.
        SchemaError: the role may not see it.
        InvalidInput: it is on another machine, or has no socket.
    """
    with _as_servers_owner(admin_url), maintenance_connection(admin_url) as connection:
        try:
            row = connection.execute(CLUSTER).fetchone()
            found = connection.execute(SETTINGS).fetchall()
            written = {name: _written(connection, name) for name, value, pending in found if pending or value == HIDDEN}
        except errors.InsufficientPrivilege as error:
            raise SchemaError(f"{error.diag.message_primary}: --admin-url must be a superuser's") from error
    assert row is not None, "one row of settings"
    cluster = Cluster(row[0], row[1], row[2].split(",")[0].strip(), row[3])
    if not Path(cluster.data_directory).exists():
        raise InvalidInput(f"{cluster.data_directory} is not on this machine: run this on the database's")
    if not cluster.socket_directory:
        raise InvalidInput("unix_socket_directories is empty: pgBackRest needs a socket")
    present = {name: setting for name, setting, _ in found}
    changes = tuple(server_changes(settings, {**present, **written}))
    return Server(cluster, present["archive_mode"] != "off", any(pending for _, _, pending in found), changes)


def keys_of_environment() -> S3Keys | None:
    """Returns AWS_ACCESS_KEY_ID and its secret, if they are set."""
    name, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    return S3Keys(name, secret, os.environ.get("AWS_SESSION_TOKEN")) if name and secret else None


def configuration_state(settings: BackupSettings, text: str) -> str:
    """Returns what writing the configuration would mean: new, unchanged or changed.

    Raises:
        Conflict: there is one that is not ours.
        BackupError: it cannot be read.
    """
    path = settings.config_file
    try:
        present = path.read_text(encoding="utf-8") if path.exists() else None
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}: run this as root or as the cluster's owner") from error
    if present is None:
        return "new"
    if not present.startswith(HEAD):
        raise Conflict(f"{path} was not written by factoryd: move it away, or set backup.config_file to another one")
    return "unchanged" if present == text else "changed"


def write_configuration(settings: BackupSettings, cluster: Cluster, keys: S3Keys | None) -> None:
    """Writes it with mode 0600 for the cluster's owner, and makes the directories that it names.

    Raises:
        BackupError: a file or directory cannot be made.
    """
    path, text = settings.config_file, render(settings, cluster, keys)
    data = Path(cluster.data_directory)
    try:
        owner = Identity.owner_of(next(place for place in (data, *data.parents) if place.exists()))
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(path, text, owner)
        for directory in (settings.path, settings.spool_path):
            if not directory.exists():
                directory.mkdir(mode=DIRECTORY_MODE, parents=True)
                owner.own(directory)
    except OSError as error:
        raise BackupError(f"{error.filename}: {error.strerror}: run this as root") from error


def change_server(admin_url: str, changes: tuple[Change, ...]) -> None:
    """Changes settings of PostgreSQL (ALTER SYSTEM), and has it read them.

    Raises:
        DatabaseUnavailable: no connection.
        SchemaError: the role may not.
    """
    with _as_servers_owner(admin_url), maintenance_connection(admin_url) as connection:
        try:
            for change in changes:
                connection.execute(statement(change))
            connection.execute("SELECT pg_reload_conf()")
        except errors.InsufficientPrivilege as error:
            raise SchemaError(f"{error.diag.message_primary}: --admin-url must be a superuser's") from error


def statement(change: Change) -> sql.Composed:
    """Returns the SQL of a change."""
    return sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(change.name), sql.Literal(change.wanted))


@contextmanager
def _as_servers_owner(admin_url: str) -> Iterator[None]:
    """Root that connects by the socket does so as the socket's owner: `peer`, Debian's rule for postgres, asks for that."""
    parts = conninfo_to_dict(admin_url)
    socket = Path(str(parts.get("host") or "")) / f".s.PGSQL.{parts.get('port') or 5432}"
    if os.geteuid() != 0 or not socket.is_absolute() or not socket.exists():
        yield
        return
    os.seteuid(socket.stat().st_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def _written(connection: psycopg.Connection, name: str) -> str:
    """What the files say already, and the running server has not yet."""
    row = connection.execute(WRITTEN, [name]).fetchone()
    return str(row[0]) if row else ""


def _write_private(path: Path, text: str, owner: Identity) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        owner.own(Path(name))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
