"""From an empty database, or any earlier revision, to the schema that the models describe."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from factoryd.embedded.directory import free_port
from storage import migrate, models_alerting, models_lasting, models_ota, models_own
from storage.database import DatabaseUnavailable
from storage.maintenance import SchemaError
from storage.models import Base
from tests.integration.catalogue import behaviour, structure
from tests.integration.conftest import Cluster, Database

REVISIONS = sorted(script.revision for script in ScriptDirectory.from_config(migrate._config()).walk_revisions())


def test_an_empty_database_is_migrated_once(empty_database: Database) -> None:
    assert migrate.current_revision(empty_database.owner) is None
    assert migrate.upgrade(empty_database.owner) == REVISIONS
    assert migrate.current_revision(empty_database.owner) == migrate.head_revision() == REVISIONS[-1]
    assert migrate.upgrade(empty_database.owner) == []


@pytest.mark.parametrize("start", REVISIONS[:-1])
def test_every_earlier_revision_is_brought_to_the_same_schema(start: str, empty_database: Database, database: Database) -> None:
    migrate.upgrade(empty_database.owner, start)
    assert migrate.current_revision(empty_database.owner) == start
    assert migrate.upgrade(empty_database.owner) == REVISIONS[REVISIONS.index(start) + 1 :]
    assert structure(empty_database.admin) == structure(database.admin)
    assert behaviour(empty_database.admin) == behaviour(database.admin)


def test_revisions_are_a_chain_of_numbers() -> None:
    assert [f"{number:04}" for number in range(1, len(REVISIONS) + 1)] == REVISIONS


def test_autogenerate_finds_no_difference(database: Database) -> None:
    def is_ours(name: str | None, kind: str, parents: object) -> bool:
        return not (kind == "table" and re.fullmatch(r"sensor_readings_\d{8}|alembic_version", name or ""))

    engine = create_engine(database.admin.replace("postgresql:", "postgresql+psycopg:"))
    options = {"include_name": is_ours, "compare_server_default": True, "compare_type": True}
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
    engine.dispose()


def test_the_models_alone_make_the_same_tables(empty_database: Database, database: Database) -> None:
    assert models_own.Quarantine.metadata is Base.metadata
    assert models_alerting.AlertOutbox.metadata is Base.metadata
    assert models_ota.OtaRollout.metadata is Base.metadata
    assert models_lasting.JobRun.metadata is Base.metadata
    engine = create_engine(empty_database.admin.replace("postgresql:", "postgresql+psycopg:"))
    Base.metadata.create_all(engine)
    engine.dispose()
    assert structure(empty_database.admin) == structure(database.admin)


def test_the_printed_sql_makes_the_same_schema(cluster: Cluster, empty_database: Database, database: Database) -> None:
    script = migrate.upgrade_sql()
    assert "factoryd-' ||" in script, "the secret client ids are made by the server, not printed"
    command = [str(cluster.server.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty_database.owner]
    subprocess.run(command, input=script, text=True, check=True)
    assert migrate.check_schema(empty_database.daemon) == migrate.head_revision()
    assert structure(empty_database.admin) == structure(database.admin)
    assert behaviour(empty_database.admin) == behaviour(database.admin)


def test_two_migrators_take_their_turns(empty_database: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        applied = list(pool.map(migrate.upgrade, [empty_database.owner] * 2))
    assert sorted(applied) == [[], REVISIONS]


def test_a_failed_migration_changes_nothing(empty_database: Database) -> None:
    with psycopg.connect(empty_database.owner, autocommit=True) as connection:
        connection.execute("CREATE TABLE quarantine ()")
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate.upgrade(empty_database.owner)
    assert migrate.current_revision(empty_database.owner) is None
    assert not any("devices" in line for line in structure(empty_database.owner))


def test_each_database_has_client_ids_and_a_system_user(empty_database: Database) -> None:
    migrate.upgrade(empty_database.owner)
    with psycopg.connect(empty_database.daemon) as connection:
        rows: dict[str, str] = dict(connection.execute("SELECT key, value FROM daemon_state").fetchall())
        system = connection.execute("SELECT role::text, password_hash FROM users WHERE login = 'system'").fetchone()
    assert sorted(rows) == ["mqtt_client_id_control", "mqtt_client_id_telemetry"]
    assert len(set(rows.values())) == 2
    assert all(re.fullmatch("factoryd-[0-9a-f]{32}", value) for value in rows.values())
    assert system == ("admin", "!")


def test_gaps_that_were_known_before_the_ledger_are_in_it(empty_database: Database) -> None:
    migrate.upgrade(empty_database.owner, "0006")
    with psycopg.connect(empty_database.owner, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO devices (device_id, name, type, location) VALUES ('press-1', 'x', 'sensor', 'x');"
            "INSERT INTO device_sequences (device_id, boot_id, first_seq, last_seq, missing, updated_at)"
            " SELECT id, 'b', 1, 9, '{[2,5),[7,8)}', '2026-05-20' FROM devices"
        )
        migrate.upgrade(empty_database.owner)
        rows = connection.execute(
            "SELECT boot_id, first_seq, last_seq, missing::text, noticed_at = '2026-05-20' FROM sequence_gaps ORDER BY id"
        ).fetchall()
    assert rows == [("b", 2, 4, "{[2,5)}", True), ("b", 7, 7, "{[7,8)}", True)]


class TestCheckSchema:
    def test_accepts_its_own_revision_as_the_daemon(self, database: Database) -> None:
        assert migrate.check_schema(database.daemon) == migrate.head_revision()

    def test_accepts_a_newer_one(self, database: Database) -> None:
        self._set_revision(database, "0999")
        assert migrate.check_schema(database.daemon) == "0999"
        assert migrate.upgrade(database.owner) == []

    def test_refuses_an_older_one(self, database: Database) -> None:
        self._set_revision(database, "0001")
        with pytest.raises(migrate.SchemaOutdated, match=rf"^schema is 0001, needs {REVISIONS[-1]}: run factoryd migrate$"):
            migrate.check_schema(database.daemon)

    def test_refuses_an_empty_database(self, empty_database: Database) -> None:
        with pytest.raises(migrate.SchemaOutdated, match=r"schema is missing, needs .*: run factoryd migrate"):
            migrate.check_schema(empty_database.daemon)

    def test_says_that_the_database_is_away(self) -> None:
        with pytest.raises(DatabaseUnavailable, match="using the database: connection"):
            migrate.check_schema(f"postgresql://nobody@127.0.0.1:{free_port()}/none")

    @staticmethod
    def _set_revision(database: Database, revision: str) -> None:
        with psycopg.connect(database.owner) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", [revision])


def test_the_daemon_cannot_migrate(empty_database: Database) -> None:
    with pytest.raises(SchemaError, match=r"permission denied for schema public: .*owner's URL"):
        migrate.upgrade(empty_database.daemon)


def test_a_long_transaction_stops_a_migration_with_words(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 0.05)
    migrate.upgrade(empty_database.owner, "0001")
    with closing(psycopg.connect(empty_database.admin)) as reader:
        reader.execute("LOCK TABLE devices IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SchemaError, match="a lock was not granted in time"):
            migrate.upgrade(empty_database.owner)
    assert migrate.upgrade(empty_database.owner) == REVISIONS[1:]
