"""`factoryd init`: the database, its roles and their rights, made once by an administrator.

Three identities: the owner of the schema (migrations, partitions), factoryd_daemon (the daemon; cannot change the
schema), factoryd_tools (people's tools; reads only). What each may do with a table is granted by the migrations.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from storage.maintenance import SchemaError, maintenance_connection

DAEMON_ROLE = "factoryd_daemon"
TOOLS_ROLE = "factoryd_tools"
OLDEST_SERVER = 150000
PASSWORD_BYTES = 24

# Lets the daemon skip the per-row foreign key check around its COPY: it locks the batch's devices once instead.
FAST_COPY_GRANT = sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(sql.Identifier(DAEMON_ROLE))
PLAIN_COPY_NOTE = (
    "this administrator may not grant SET ON PARAMETER session_replication_role to factoryd_daemon: everything works, "
    "but readings are stored at about half the speed; a superuser can run the grant at any time"
)


@dataclass(frozen=True, slots=True)
class InitResult:
    """What `init_database` did; passwords are known here only, PostgreSQL keeps verifiers."""

    database: str
    owner: str
    passwords: dict[str, str]
    """New passwords by role: of roles made now, or of all when they were to be reset."""
    fast_copy: bool
    notes: tuple[str, ...]


def init_database(
    admin_url: str, *, database: str | None = None, owner: str | None = None, reset_passwords: bool = False
) -> InitResult:
    """Makes what is missing; a second run changes nothing.

    Args:
        admin_url: a superuser, or a role with CREATEROLE and CREATEDB (or one that owns the database).
        database: made if it is missing; default: the one of admin_url.
        owner: role that shall own database and schema, made if it is missing; default: the database's present owner.
        reset_passwords: also give new passwords to roles that exist.

    Raises:
        SchemaError: the server is too old, or the administrator lacks a right.
        DatabaseUnavailable: no connection.
    """
    roles = [*([owner] if owner else []), DAEMON_ROLE, TOOLS_ROLE]
    with maintenance_connection(admin_url) as connection, _explained():
        _refuse_old_server(connection)
        database = database or connection.info.dbname
        passwords = {role: _give_password(connection, role) for role in _missing_roles(connection, roles, reset_passwords)}
        present_owner = _create_database(connection, database)
    with maintenance_connection(make_conninfo(admin_url, dbname=database)) as connection, _explained():
        _grant(connection, database, owner or present_owner)
        fast_copy = _grant_fast_copy(connection)
    return InitResult(database, owner or present_owner, passwords, fast_copy, () if fast_copy else (PLAIN_COPY_NOTE,))


def init_sql(*, database: str = "factoryd", owner: str = "factoryd_owner") -> str:
    r"""Returns the same as a psql script for a superuser; it asks for the passwords (`\password`), and holds none."""
    create_database = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
    roles = (owner, DAEMON_ROLE, TOOLS_ROLE)
    return "\n".join(
        [
            r"\set ON_ERROR_STOP on",
            *(_unless_exists("pg_roles", "rolname", role, _create_role(role)) for role in roles),
            *(rf"\password {sql.Identifier(role).as_string()}" for role in roles),
            _unless_exists("pg_database", "datname", database, create_database),
            rf"\connect {sql.Identifier(database).as_string()}",
            *(f"{statement.as_string()};" for statement in _grants(database, owner)),
            f"{FAST_COPY_GRANT.as_string()};",
            "",
        ]
    )


def _unless_exists(catalogue: str, column: str, name: str, statement: sql.Composed) -> str:
    query = sql.SQL("SELECT {} WHERE NOT EXISTS (SELECT FROM {} WHERE {} = {})").format(
        sql.Literal(statement.as_string()), sql.Identifier(catalogue), sql.Identifier(column), sql.Literal(name)
    )
    return rf"{query.as_string()} \gexec"


def _create_role(role: str) -> sql.Composed:
    return sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role))


def _grants(database: str, owner: str) -> Iterator[sql.Composed]:
    """The ownership comes last: until then an administrator who owns the database may still grant."""
    people = sql.SQL(", ").join([sql.Identifier(DAEMON_ROLE), sql.Identifier(TOOLS_ROLE)])
    names = {"database": sql.Identifier(database), "owner": sql.Identifier(owner), "people": people}
    for statement in (
        "GRANT CONNECT ON DATABASE {database} TO {people}",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "GRANT USAGE, CREATE ON SCHEMA public TO {owner}",
        "ALTER DATABASE {database} OWNER TO {owner}",
    ):
        yield sql.SQL(statement).format(**names)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"init stopped: {error.diag.message_primary}: use a superuser or a role with CREATEROLE and CREATEDB, "
            "or let a database administrator run the output of factoryd init --print-sql"
        ) from error


def _refuse_old_server(connection: psycopg.Connection) -> None:
    version = connection.info.server_version
    if version < OLDEST_SERVER:
        raise SchemaError(f"PostgreSQL {version // 10000} is too old: use 15 or newer")


def _missing_roles(connection: psycopg.Connection, roles: list[str], reset_passwords: bool) -> list[str]:
    """Makes the missing roles; returns those that need a password."""
    existing = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
    missing = [role for role in roles if role not in existing]
    for role in missing:
        connection.execute(_create_role(role))
    return [role for role in roles if role in missing or reset_passwords]


def _give_password(connection: psycopg.Connection, role: str) -> str:
    """Sends a SCRAM verifier: the password itself reaches neither the server's log nor pg_stat_activity."""
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))
    return password


def _create_database(connection: psycopg.Connection, database: str) -> str:
    """Makes it if it is missing; returns its owner."""
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
    if connection.execute(owner, [database]).fetchone() is None:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    row = connection.execute(owner, [database]).fetchone()
    assert row is not None, "the database exists by now"
    return str(row[0])


def _grant(connection: psycopg.Connection, database: str, owner: str) -> None:
    with connection.transaction():
        member = connection.execute("SELECT pg_has_role(current_user, %s, 'USAGE')", [owner]).fetchone()
        if member and not member[0]:
            # Only a member may hand a database over to a role; a superuser counts as one.
            connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(owner)))
        for statement in _grants(database, owner):
            connection.execute(statement)


def _grant_fast_copy(connection: psycopg.Connection) -> bool:
    granted = "SELECT has_parameter_privilege(%s, 'session_replication_role', 'SET')"
    row = connection.execute(granted, [DAEMON_ROLE]).fetchone()
    if row and row[0]:
        return True
    try:
        connection.execute(FAST_COPY_GRANT)
    except errors.InsufficientPrivilege:
        return False
    return True
