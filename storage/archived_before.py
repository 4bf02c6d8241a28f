"""A day of which the archive holds a part, because retention was raised or rows were put back: only what is new goes in."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from ingest.reading import METRICS
from storage.archive_files import ArchiveFile
from storage.archive_restore import FILE_COLUMN, copy_file
from storage.archive_tables import READINGS
from storage.archive_uploads import Uploads
from storage.refusals import Conflict
from storage.sealing import Partition

_MAKE = """
    DROP TABLE IF EXISTS pg_temp.archived_before;
    CREATE TEMPORARY TABLE archived_before (LIKE sensor_readings);
    ALTER TABLE archived_before ADD COLUMN {file} bigint"""
_SAME = "r.device_id = a.device_id AND r.recorded_at = a.recorded_at"
_NEW = f"(SELECT r.* FROM {{}} r WHERE NOT EXISTS (SELECT FROM archived_before a WHERE {_SAME})) AS r"  # noqa: S608 - our constants
_VALUES = ", ".join(f"{{0}}.{name}" for name in (*METRICS, "extra"))
_CONTRADICTING = f"""
    SELECT count(*) FROM {{}} r JOIN archived_before a ON {_SAME}
    WHERE ({_VALUES.format("r")}) IS DISTINCT FROM ({_VALUES.format("a")})"""  # noqa: S608 - our constants


def new_rows(
    connection: psycopg.Connection, uploads: Uploads, partition: Partition, earlier: Sequence[ArchiveFile]
) -> tuple[sql.Composable, int]:
    """Returns the rows of a sealed day that no earlier file holds, as what may stand behind FROM, and how many they are.

    Raises:
        Conflict: a row is in a file already, and says something else.
        ArchiveDamaged, StoreUnavailable: an earlier file cannot be read.
    """
    connection.execute(sql.SQL(_MAKE).format(file=sql.Identifier(FILE_COLUMN)))
    path = uploads.spool / "earlier.parquet"
    for file in earlier:
        try:
            uploads.fetch(file, path)
            copy_file(connection, READINGS, path, sql.Identifier("pg_temp", "archived_before"), file)
        finally:
            path.unlink(missing_ok=True)
    connection.execute("CREATE INDEX ON archived_before (device_id, recorded_at); ANALYZE archived_before")
    if contradicting := _count(connection, sql.SQL(_CONTRADICTING).format(partition.relation)):
        raise Conflict(
            f"{partition.name} holds {contradicting} readings that contradict what the archive holds of them: nothing was "
            f"dropped; delete them, or have {earlier[0].url} forgotten in archive_files"
        )
    relation = sql.SQL(_NEW).format(partition.relation)
    return relation, _count(connection, sql.SQL("SELECT count(*) FROM {}").format(relation))


def _count(connection: psycopg.Connection, query: sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None, "an aggregate"
    return int(row[0])
