"""The archive's list of files against the manifest: by name and size, without reading them."""

from collections.abc import Iterator
from contextlib import closing

from config.settings import Settings
from config.storage_settings import NO_ARCHIVE
from storage.archive_files import KEPT, list_files
from storage.command_connection import command_connection
from storage.integrity import FEW, Checked
from storage.objects import ObjectStore
from storage.refusals import Conflict

THERE = "files of the archive are there, with their sizes"
KNOWN = "files of the archive are in the manifest"


def compare_with_archive(settings: Settings) -> Iterator[Checked]:
    """Yields two checks; nothing if there is no archive.

    Raises:
        As `command_connection`.
    """
    archive = settings.archive
    if archive.url in {None, NO_ARCHIVE}:
        return
    assert archive.url is not None, "just asked"
    with command_connection(settings.database) as connection:
        files = list_files(connection)
    with closing(ObjectStore(archive.url, archive.s3_endpoint_url, archive.s3_timeout_s)) as store:
        try:
            stored = {store.url(key): size for key, size in store.keys("") if key.endswith(".parquet")}
        except (ConnectionError, Conflict, LookupError) as error:
            yield Checked(THERE, (f"the archive cannot be listed: {error}",))
            return
    expected = {file.url: file.size_bytes for file in files if file.state in KEPT}
    yield Checked(THERE, tuple(_missing(expected, stored))[:FEW])
    known = {file.url for file in files}
    strange = [f"{url} ({size} bytes) is in no manifest" for url, size in stored.items() if url not in known]
    yield Checked(KNOWN, tuple(strange[:FEW]))


def _missing(expected: dict[str, int], stored: dict[str, int]) -> Iterator[str]:
    for url, size in expected.items():
        if url not in stored:
            yield f"{url} is not there"
        elif stored[url] != size:
            yield f"{url} has {stored[url]} bytes, and not {size}"
