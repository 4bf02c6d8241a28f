"""What a drill finds in a database whose pages, indexes, schema or manifests are not as they should be."""

import pytest

from storage.backup_checks import Checked, check_copy
from storage.migrate import head_revision
from storage.partitions import partition_name
from tests.integration.command_line import rows
from tests.integration.conftest import TODAY, Database

# An order that is turned round after the index was built.
UNSORTED = """
    CREATE FUNCTION turned(a bigint, b bigint) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT btint8cmp(a, b)';
    CREATE OPERATOR CLASS turning FOR TYPE bigint USING btree AS
        OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 turned(bigint, bigint);
    CREATE TABLE numbers AS SELECT n::bigint AS n FROM generate_series(1, 100) n;
    CREATE INDEX numbers_idx ON numbers (n turning);
    CREATE OR REPLACE FUNCTION turned(a bigint, b bigint) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT btint8cmp(b, a)'"""
# Rows that are older than the table says its oldest are.
TOO_OLD = "UPDATE pg_class SET relfrozenxid = pg_current_xact_id()::text::xid WHERE relname = 'daemon_state'"
NOON = f"{TODAY} 12:00Z"
MANIFEST = """
    INSERT INTO archive_files (table_name, day, url, state, row_count, size_bytes, sha256, schema_version, from_at, to_at,
        verified_at, completed_at)
    VALUES ('sensor_readings', %s, 'file:///x', 'complete', 1, 1, repeat('0', 64), 1, now(), now(), now(), now())"""


HAS_AMCHECK = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'"


def has_amcheck(database: Database) -> bool:
    """Debian's PostgreSQL has it; the wheel's has not, as some site's may not."""
    return rows(database.admin, HAS_AMCHECK) == [(1,)]


def checked(database: Database, revision: str | None = None) -> Checked:
    return check_copy(database.admin, database.name, revision or head_revision())


def test_a_good_database_has_no_findings(database: Database) -> None:
    found = checked(database)
    assert (found.findings, found.revision) == ([], head_revision())
    assert found.rows["users"] == 1
    assert partition_name(TODAY) not in found.rows, "a table is counted whole"
    if has_amcheck(database):
        assert (found.indexes > 100, found.heaps > 50, found.notes) == (True, True, [])
    else:
        assert (found.indexes, found.notes) == (0, ["amcheck is not installed here: indexes and pages were not looked at"])


@pytest.mark.parametrize(
    ("statement", "finding"),
    [(UNSORTED, "index numbers_idx: item order invariant violated"), (TOO_OLD, "table daemon_state: block 0: xmin ")],
    ids=["index", "table"],
)
def test_what_amcheck_finds_wrong_is_a_finding(statement: str, finding: str, database: Database) -> None:
    rows(database.admin, statement)
    found = checked(database)
    assert [text[: len(finding)] for text in found.findings] == ([finding] if has_amcheck(database) else [])


def test_a_schema_that_is_missing_is_a_finding(database: Database) -> None:
    rows(database.admin, "DROP TABLE alembic_version")
    assert checked(database).findings == ["the schema is missing: is it the right database?"]


def test_a_day_that_is_archived_and_has_rows_is_noted(database: Database) -> None:
    rows(database.admin, MANIFEST, TODAY)
    found = checked(database)
    assert (found.manifests, [note for note in found.notes if "archived" in note]) == (1, []), "an empty partition is none"
    rows(database.admin, "INSERT INTO devices (device_id, name, type, location) VALUES ('a', 'a', 'press', 'hall')")
    rows(database.admin, "INSERT INTO sensor_readings (device_id, recorded_at) SELECT id, %s::timestamptz FROM devices", NOON)
    found = checked(database)
    assert found.findings == []
    assert [note.partition(";")[0] for note in found.notes if "archived" in note] == [
        f"archived, and yet there are rows: {partition_name(TODAY)}"
    ]


def test_an_older_schema_is_noted(database: Database) -> None:
    assert "is older than this version's 9999" in checked(database, "9999").notes[0]


def test_a_database_that_is_missing_is_a_finding(database: Database) -> None:
    (found,) = check_copy(database.admin, "nowhere", "0001").findings
    assert found.startswith("database nowhere: ")
