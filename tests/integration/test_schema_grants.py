"""Who may do what: `factoryd init` makes the identities, the migrations grant them their rights."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors, sql

from storage import migrate
from storage.maintenance import SchemaError
from storage.partitions import partition_name
from storage.roles import DAEMON_ROLE, TOOLS_ROLE, init_database, init_sql
from tests.integration.conftest import BINARIES, OWNER_ROLE, TODAY, Cluster, Database
from tests.servers import PostgresServer, postgres_server

READ_WRITE = {"SELECT", "INSERT", "UPDATE"}
ALL_ROWS = READ_WRITE | {"DELETE"}
DAEMON_RIGHTS = {
    "users": READ_WRITE,
    "devices": READ_WRITE,
    "sensor_readings": READ_WRITE,
    "alerts": READ_WRITE,
    "alert_thresholds": ALL_ROWS,
    "ota_versions": READ_WRITE,
    "ota_deployments": READ_WRITE,
    "device_latest": ALL_ROWS,
    "device_sequences": ALL_ROWS,
    "device_credentials": ALL_ROWS,
    "quarantine": ALL_ROWS,
    "daemon_state": READ_WRITE,
    "cache_versions": {"SELECT"},
    "alembic_version": {"SELECT"},
    "threshold_classes": ALL_ROWS,
    "rule_state": ALL_ROWS,
    "alert_outbox": ALL_ROWS,
    "late_windows": ALL_ROWS,
    "alert_history": READ_WRITE,
    "operator_commands": READ_WRITE,
    "ota_keys": READ_WRITE,
    "ota_rollouts": READ_WRITE,
    "ota_rollout_stages": READ_WRITE,
    "ota_deployment_events": READ_WRITE,
    "ota_device_state": READ_WRITE,
    "readings_1m": ALL_ROWS,
    "readings_1h": ALL_ROWS,
    "rollup_repairs": ALL_ROWS,
    "sequence_gaps": ALL_ROWS,
    "archive_files": {"SELECT"},
    "job_runs": READ_WRITE,
    partition_name(TODAY): set[str](),
}
HIDDEN_FROM_TOOLS = {
    "users",
    "daemon_state",
    "device_credentials",
    "alert_outbox",
    "late_windows",
    partition_name(TODAY),
}
TOOLS_RIGHTS = {table: set[str]() if table in HIDDEN_FROM_TOOLS else {"SELECT"} for table in DAEMON_RIGHTS}
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


@pytest.mark.parametrize(("role", "rights"), [(DAEMON_ROLE, DAEMON_RIGHTS), (TOOLS_ROLE, TOOLS_RIGHTS)])
def test_rights_on_tables(role: str, rights: dict[str, set[str]], shared_database: Database) -> None:
    with psycopg.connect(shared_database.admin) as connection:
        rows = connection.execute(
            """SELECT relname, privilege FROM pg_class, unnest(%s::text[]) privilege
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
                AND has_table_privilege(%s, oid, privilege)""",
            [list(PRIVILEGES), role],
        ).fetchall()
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    granted = {table: {privilege for name, privilege in rows if name == table} for table in rights}
    assert granted == rights
    unlisted = {name for (name,) in tables if not re.fullmatch(r"sensor_readings_\d{8}", name)} - set(rights)
    assert not unlisted, "every table is in the matrix"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine ()",
        "CREATE SCHEMA mine",
        "ALTER TABLE devices ADD COLUMN mine text",
        "DROP TABLE quarantine",
        "DROP FUNCTION raise_cache_version() CASCADE",
        "TRUNCATE quarantine",
        "DELETE FROM sensor_readings",
        "DELETE FROM devices",
        "UPDATE cache_versions SET version = 0",
        "UPDATE alembic_version SET version_num = '0999'",
        "CREATE TRIGGER mine BEFORE INSERT ON devices FOR EACH ROW EXECUTE FUNCTION set_updated_at()",
    ],
)
def test_the_daemon_cannot(statement: str, shared_database: Database) -> None:
    with psycopg.connect(shared_database.daemon) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT password_hash FROM users",
        "SELECT value FROM daemon_state",
        "SELECT secret_hash FROM device_credentials",
        "UPDATE devices SET name = 'x'",
        "INSERT INTO alerts (device_id, severity, message) VALUES (1, 'info', '')",
        "SET session_replication_role = replica",
    ],
)
def test_tools_cannot(statement: str, shared_database: Database) -> None:
    with psycopg.connect(shared_database.tools) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_tools_read_what_people_need(shared_database: Database) -> None:
    with psycopg.connect(shared_database.tools) as connection:
        assert connection.execute("SELECT login, email FROM users").fetchone() == ("system", "system@factoryd.invalid")
        connection.execute("SELECT * FROM devices LEFT JOIN device_latest ON device_latest.device_id = devices.id")
        connection.execute("SELECT * FROM sensor_readings")


class TestInit:
    def test_lets_the_daemon_switch_off_foreign_key_checks(self, shared_database: Database) -> None:
        with psycopg.connect(shared_database.daemon) as connection:
            connection.execute("SET LOCAL session_replication_role = replica")

    def test_again_changes_nothing(self, cluster: Cluster, database: Database) -> None:
        result = init_database(database.admin, owner=OWNER_ROLE)
        assert (result.passwords, result.owner, result.fast_copy, result.notes) == ({}, OWNER_ROLE, True, ())
        psycopg.connect(cluster.database(database.name).daemon).close()

    def test_keeps_an_owner_that_is_not_asked_for(self, database: Database) -> None:
        assert init_database(database.admin).owner == OWNER_ROLE

    def test_the_daemon_cannot_run_it(self, database: Database) -> None:
        with pytest.raises(SchemaError, match=r"permission denied.*init --print-sql"):
            init_database(database.daemon, owner="another_owner")

    def test_names_roles_that_are_missing(self, own_server: PostgresServer) -> None:
        with pytest.raises(SchemaError, match='role "factoryd_daemon" does not exist: run factoryd init first'):
            migrate.upgrade(own_server.url())
        assert migrate.current_revision(own_server.url()) is None

    def test_resets_passwords_when_asked(self, own_server: PostgresServer) -> None:
        first = init_database(own_server.url(), database="plant", owner="plant owner").passwords
        second = init_database(own_server.url(), database="plant", owner="plant owner", reset_passwords=True).passwords
        assert set(first) == set(second) == {"plant owner", DAEMON_ROLE, TOOLS_ROLE}
        psycopg.connect(own_server.url("plant", DAEMON_ROLE, second[DAEMON_ROLE])).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(own_server.url("plant", DAEMON_ROLE, first[DAEMON_ROLE]))

    def test_passwords_reach_the_server_as_verifiers(self, own_server: PostgresServer, tmp_path: Path) -> None:
        with psycopg.connect(own_server.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
            connection.execute("SELECT pg_reload_conf()")
        passwords = init_database(own_server.url()).passwords
        log = (tmp_path / "postgres.log").read_text()
        assert "SCRAM-SHA-256$" in log
        assert not any(password in log for password in passwords.values())

    def test_without_superuser_the_plain_path_remains(self, own_server: PostgresServer) -> None:
        with psycopg.connect(own_server.url(), autocommit=True) as connection:
            connection.execute("CREATE ROLE dba LOGIN CREATEROLE CREATEDB PASSWORD 'x'")
        dba = own_server.url("postgres", "dba", "x")
        for _ in range(2):
            result = init_database(dba, database="plant", owner=OWNER_ROLE, reset_passwords=True)
            assert (result.owner, result.fast_copy) == (OWNER_ROLE, False)
            assert "half the speed" in result.notes[0]
        migrate.upgrade(own_server.url("plant", OWNER_ROLE, result.passwords[OWNER_ROLE]))
        daemon = own_server.url("plant", DAEMON_ROLE, result.passwords[DAEMON_ROLE])
        assert migrate.check_schema(daemon) == migrate.head_revision()
        with psycopg.connect(daemon) as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute("SET LOCAL session_replication_role = replica")

    def test_the_printed_sql_does_the_same(self, own_server: PostgresServer) -> None:
        script = init_sql(database="plant", owner="o'wner")
        typed = re.sub(r"^\\password (.*)$", r"ALTER ROLE \1 PASSWORD 'typed';", script, flags=re.MULTILINE)
        assert typed.count("'typed'") == 3
        for _ in range(2):
            subprocess.run(
                [own_server.binaries / "psql", "-X", "-q", "-d", own_server.url()], input=typed, text=True, check=True
            )
        assert init_database(own_server.url(), database="plant", owner="o'wner").passwords == {}
        with psycopg.connect(own_server.url("plant")) as connection:
            row = connection.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'plant'").fetchone()
        assert row == ("o'wner",)
        migrate.upgrade(own_server.url("plant", "o%27wner", "typed"))
        assert migrate.check_schema(own_server.url("plant", DAEMON_ROLE, "typed")) == migrate.head_revision()


@pytest.fixture(params=sorted({min(BINARIES), max(BINARIES)}), ids=lambda version: f"postgresql{version}")
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PostgresServer]:
    """A cluster without our roles: they belong to a cluster, not to a database."""
    with postgres_server(BINARIES[request.param], tmp_path) as server:
        yield server


def test_names_are_quoted(own_server: PostgresServer) -> None:
    name = 'plant"; DROP TABLE x; --'
    result = init_database(own_server.url(), database=name, owner=name)
    assert (result.database, result.owner) == (name, name)
    with psycopg.connect(own_server.url()) as connection:
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))
