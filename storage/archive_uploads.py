"""Files into the archive: written down, uploaded, read back, and only then believed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from storage.archive_export import Exported
from storage.archive_files import ArchiveFile, forget, intend, list_files, mark_verified
from storage.archive_tables import ArchivedTable
from storage.objects import Content, ObjectStore, Progress, content_of
from storage.refusals import Conflict, NotFound

log = structlog.get_logger(__name__)

HASH_IN_NAME = 16
FOLDERS = "table="
"""What the keys of all files begin with."""
MANIFESTS = "manifests"
"""Folder of the manifests: beside the tables, so that who reads a table's folder finds Parquet only."""


class ArchiveDamaged(Conflict):
    """What is in the archive is not what was put there."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """The archive, and how files get there.

    Args:
        store: what lies below archive.url.
        spool: a directory for files on their way.
        connection: of the owner; autocommit.
    """

    store: ObjectStore
    spool: Path
    connection: psycopg.Connection

    def add(self, table: ArchivedTable, day: date, path: Path, exported: Exported, source: str | None = None) -> ArchiveFile:
        """Puts a file there and reads it back; its state is then `verified`, or `complete` if it has been there before.

        Args:
            table: what it holds rows of.
            day: of these rows, UTC.
            path: the file.
            exported: what it holds; at least one row.
            source: the partition that it holds.

        Raises:
            ArchiveDamaged: what was read back is something else.
            StoreUnavailable: try again.
            Conflict, NotFound: the store refuses, or there is no such bucket.
        """
        assert exported.from_at is not None, "there are rows"
        assert exported.to_at is not None, "there are rows"
        content = content_of(path)
        key = f"{folder(table.name, day)}{content.sha256[:HASH_IN_NAME]}.parquet"
        self._give_up_others(table, day, self.store.url(key))
        file = intend(
            self.connection,
            table.name,
            day,
            self.store.url(key),
            source,
            exported.rows,
            *content,
            exported.from_at,
            exported.to_at,
        )
        if file.state == "uploading":
            self.store.put(path, key)
            self.read_back(file)
            self._put_manifest(file, key)
            mark_verified(self.connection, file)
        return file

    def fetch(self, file: ArchiveFile, target: Path, progress: Progress = lambda _: None) -> None:
        """Fetches a file and holds it against its manifest: size, hash and rows.

        Raises:
            ArchiveDamaged: it is something else, or is not there.
            StoreUnavailable: try again.
            Conflict: the store refuses, or the file lies in another archive than archive.url.
        """
        key = self.key(file)
        if key is None:
            raise Conflict(f"{file.url} does not lie below archive.url, {self.store.root}: set that to where it lies")
        try:
            found = self.store.fetch(key, target, progress)
            if found != Content(file.size_bytes, file.sha256):
                raise ArchiveDamaged(
                    f"{file.url} is not what was put there: {found.size_bytes} bytes with sha256 {found.sha256[:16]}…, and not "
                    f"{file.size_bytes} with {file.sha256[:16]}…"
                )
            rows = pq.read_metadata(target).num_rows
        except NotFound as error:
            raise ArchiveDamaged(f"{file.url} is not there") from error
        except pa.ArrowInvalid as error:
            raise ArchiveDamaged(f"{file.url} cannot be read: {error}") from error
        if rows != file.row_count:
            raise ArchiveDamaged(f"{file.url} holds {rows} rows, and not {file.row_count}")

    def read_back(self, file: ArchiveFile, progress: Progress = lambda _: None) -> None:
        """Fetches a file only to see that it is what was put there.

        Raises:
            As `fetch`.
        """
        target = self.spool / "read-back.parquet"
        try:
            self.fetch(file, target, progress)
        finally:
            target.unlink(missing_ok=True)

    def _give_up_others(self, table: ArchivedTable, day: date, url: str) -> None:
        """An earlier run may have been killed with another file of the same rows on its way: it must not stay beside ours."""
        for other in list_files(self.connection, table.name, day, day, ["uploading", "verified"]):
            if other.url != url and (key := self.key(other)) is not None:
                self.store.delete(key)
                self.store.delete(manifest_key(key))
                forget(self.connection, other)
                log.warning("archive_file_abandoned", url=other.url, instead=url)

    def key(self, file: ArchiveFile) -> str | None:
        """Returns a file's key below archive.url; None: it lies elsewhere, because archive.url was changed."""
        root = self.store.url("")
        return file.url.removeprefix(root) if file.url.startswith(root) else None

    def _put_manifest(self, file: ArchiveFile, key: str) -> None:
        path = self.spool / "manifest.json"
        told = ("table_name", "day", "url", "row_count", "size_bytes", "sha256", "schema_version", "from_at", "to_at")
        path.write_text(json.dumps({name: str_or_number(getattr(file, name)) for name in told}, indent=1) + "\n")
        self.store.put(path, manifest_key(key))
        path.unlink()

    def orphans(self) -> Iterator[tuple[str, int]]:
        """Yields Parquet files in the archive that no manifest names, with their bytes.

        Raises:
            StoreUnavailable: try again.
        """
        known = {self.key(file) for file in list_files(self.connection)}
        for key, size in self.store.keys(""):
            if key.endswith(".parquet") and key not in known:
                yield self.store.url(key), size


def folder(table: str, day: date) -> str:
    """Returns where a day's files lie, as Hive names partitions."""
    return f"{FOLDERS}{table}/date={day:%Y-%m-%d}/"


def manifest_key(key: str) -> str:
    """Returns the key of a file's manifest."""
    return f"{MANIFESTS}/{key.removesuffix('.parquet')}.json"


def str_or_number(value: object) -> object:
    """Returns a value as JSON has it: numbers as they are, the rest as text."""
    return value if isinstance(value, int) else str(value)
