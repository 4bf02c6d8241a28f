"""The archive for people: what it holds, whether that is still what was put there, and back into the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from config.settings import DatabaseSettings
from config.storage_settings import ArchiveSettings
from storage.archive_files import KEPT, STATES, ArchiveFile, list_files
from storage.archive_restore import RestoredFile, restore
from storage.archive_tables import TABLES, ArchivedTable
from storage.archive_uploads import ArchiveDamaged, Uploads
from storage.command_connection import command_connection
from storage.maintenance_run import open_archive, opened_owner, spool
from storage.objects import Progress
from storage.refusals import InvalidInput


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """One file, held against its manifest; `problem` says what is wrong, None: nothing."""

    url: str
    problem: str | None


def archived_files(
    settings: DatabaseSettings, table: str | None, since: date | None, until: date | None, *, everything: bool
) -> list[ArchiveFile]:
    """Returns files of a table and of days; `everything` includes those that are still on their way.

    Raises:
        InvalidInput: no such table is archived.
    """
    if table is not None:
        archived_table(table)
    with command_connection(settings) as connection:
        return list_files(connection, table, since, until, STATES if everything else KEPT)


def verify_files(
    owner_url: str, archive: ArchiveSettings, table: str | None, since: date | None, until: date | None, progress: Progress
) -> Iterator[VerifiedFile]:
    """Reads every file of the days back, and then names those in the archive that no manifest knows.

    Raises:
        StoreUnavailable: try again.
        InvalidInput: there is no archive.
    """
    with _opened(owner_url, archive) as uploads:
        for file in list_files(uploads.connection, table, since, until, KEPT):
            try:
                uploads.read_back(file, progress)
            except ArchiveDamaged as damaged:
                yield VerifiedFile(file.url, str(damaged))
            else:
                yield VerifiedFile(file.url, None)
        for url, size in uploads.orphans():
            yield VerifiedFile(url, f"{url} ({size} bytes) is in no manifest: it is not ours, or of another database")


def restore_files(
    owner_url: str,
    archive: ArchiveSettings,
    table: str,
    since: date,
    until: date,
    device: str | None,
    into: str | None,
    progress: Progress,
) -> Iterator[RestoredFile]:
    """Restores days into a side table; see `archive_restore.restore`."""
    with _opened(owner_url, archive) as uploads:
        yield from restore(
            uploads.connection, uploads, archived_table(table), since, until, device=device, into=into, progress=progress
        )


def archived_table(name: str) -> ArchivedTable:
    """Returns how a table is archived.

    Raises:
        InvalidInput: it is not.
    """
    if name not in TABLES:
        raise InvalidInput(f"{name[:60]!r} is not archived; these are: {', '.join(TABLES)}")
    return TABLES[name]


@contextmanager
def _opened(owner_url: str, archive: ArchiveSettings) -> Iterator[Uploads]:
    with (
        opened_owner(owner_url) as connection,
        spool(archive, owner_url, "restore") as directory,
        open_archive(connection, directory, archive) as uploads,
    ):
        if uploads is None:
            raise InvalidInput("archive.url: there is no archive; name the one to read, s3://bucket/prefix or file:///…")
        yield uploads
