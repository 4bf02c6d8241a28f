"""What a drill looks at in a restored copy: schema, rows of every table, indexes and pages, the archive's manifests."""

from dataclasses import dataclass, field

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from storage.database import one_line

TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname"""
HEAPS = """
    SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam
    WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm') AND c.relpersistence = 'p' ORDER BY 2"""
INDEXES = """
    SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
    WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid ORDER BY 2"""
HAS_AMCHECK = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'"
# A manifest that says complete promises that its rows are no longer in the table. Others may be, after a longer retention.
ARCHIVED_PARTITIONS = """
    SELECT DISTINCT c.relname
    FROM archive_files f JOIN pg_class c ON c.relname = 'sensor_readings_' || to_char(f.day, 'YYYYMMDD')
    WHERE f.state = 'complete' AND f.table_name = 'sensor_readings' AND c.relnamespace = 'public'::regnamespace ORDER BY 1"""
MANIFESTS = "SELECT count(*) FROM archive_files WHERE state = 'complete'"


@dataclass(slots=True)
class Checked:
    """What was looked at, and what was found wrong."""

    revision: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    """By table."""
    indexes: int = 0
    heaps: int = 0
    manifests: int = 0
    has_checksums: bool = False
    findings: list[str] = field(default_factory=list)
    """Each in a line; none: all is well."""
    notes: list[str] = field(default_factory=list)
    """What could not be looked at."""


def check_copy(conninfo: str, database: str, revision: str) -> Checked:
    """Looks at everything; takes about as long as it takes to read the database.

    Args:
        conninfo: of the copy, for a superuser; it is written to (an extension).
        database: ours.
        revision: of the schema, as it should be at least.
    """
    checked = Checked()
    try:
        with psycopg.connect(make_conninfo(conninfo, dbname=database), autocommit=True) as connection:
            connection.execute("SET timezone = 'UTC'")
            _look_at_schema(connection, checked, revision)
            _count_rows(connection, checked)
            _look_at_pages(connection, checked)
            _look_at_manifests(connection, checked)
            row = connection.execute("SELECT current_setting('data_checksums') = 'on'").fetchone()
            checked.has_checksums = bool(row and row[0])
    except psycopg.Error as error:
        checked.findings.append(f"database {database}: {one_line(error)}")
    return checked


def _look_at_schema(connection: psycopg.Connection, checked: Checked, revision: str) -> None:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except errors.UndefinedTable:
        row = None
    checked.revision = str(row[0]) if row else "none"
    if row is None:
        checked.findings.append("the schema is missing: is it the right database?")
    elif checked.revision < revision:
        checked.notes.append(f"schema {checked.revision} is older than this version's {revision}: run factoryd migrate on it")


def _count_rows(connection: psycopg.Connection, checked: Checked) -> None:
    for (table,) in connection.execute(TABLES).fetchall():
        count = sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table))
        try:
            row = connection.execute(count).fetchone()
            checked.rows[table] = int(row[0]) if row else 0
        except errors.DataCorrupted as error:
            checked.findings.append(f"table {table}: {one_line(error)}")


def _look_at_pages(connection: psycopg.Connection, checked: Checked) -> None:
    available = connection.execute(HAS_AMCHECK).fetchone()
    if not (available and available[0]):
        checked.notes.append("amcheck is not installed here: indexes and pages were not looked at")
        return
    connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
    for index, name in connection.execute(INDEXES).fetchall():
        checked.indexes += 1
        try:
            connection.execute("SELECT bt_index_check(%s::oid::regclass)", [index])
        except (errors.IndexCorrupted, errors.DataCorrupted) as error:
            checked.findings.append(f"index {name}: {one_line(error)}")
    for heap, name in connection.execute(HEAPS).fetchall():
        checked.heaps += 1
        try:
            bad = connection.execute("SELECT blkno, msg FROM verify_heapam(%s::oid::regclass) LIMIT 1", [heap]).fetchone()
        except errors.DataCorrupted as error:
            bad = (0, one_line(error))
        if bad:
            checked.findings.append(f"table {name}: block {bad[0]}: {bad[1]}")


def _look_at_manifests(connection: psycopg.Connection, checked: Checked) -> None:
    try:
        manifests = connection.execute(MANIFESTS).fetchone()
        present = [name for (name,) in connection.execute(ARCHIVED_PARTITIONS).fetchall()]
    except errors.UndefinedTable:  # restored from before schema 0007
        return
    checked.manifests = int(manifests[0]) if manifests else 0
    filled = [name for name in present if _has_rows(connection, name)]
    if filled:
        checked.notes.append(
            f"archived, and yet there are rows: {', '.join(filled)}; factoryd archive list shows what was archived"
        )


def _has_rows(connection: psycopg.Connection, table: str) -> bool:
    exists = sql.SQL("SELECT EXISTS (SELECT 1 FROM public.{})").format(sql.Identifier(table))
    row = connection.execute(exists).fetchone()
    return bool(row and row[0])
