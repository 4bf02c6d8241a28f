"""Firmware versions as people read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from config.settings import DatabaseSettings
from ota.firmware import Key
from storage.command_connection import command_connection
from storage.firmware_rows import Row, load_keys, load_row
from storage.refusals import NotFound


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version. Times are aware UTC."""

    version: str
    status: str
    """draft, released, deprecated or recalled."""
    hardware: Sequence[str]
    min_version: str | None
    downgrade: bool
    size_bytes: int | None
    sha256: str | None
    firmware_url: str
    manifest_seq: int | None
    signed_by: Sequence[str]
    """Names of keys; factoryd firmware verify tells whether the signatures are good."""
    expires_at: datetime | None
    devices: int
    """How many run it, as they say."""
    live: int
    """Deployments under way."""
    release_notes: str | None
    created_by: str | None
    created_at: datetime
    released_by: str | None
    released_at: datetime | None
    recalled_at: datetime | None
    recall_reason: str | None


VIEW = """
    SELECT version, CASE WHEN recalled_at IS NOT NULL THEN 'recalled' ELSE status::text END AS status, hardware, min_version,
        downgrade, size_bytes, sha256, firmware_url, manifest_seq, expires_at, release_notes, created_by, created_at,
        released_by, released_at, recalled_at, recall_reason,
        ARRAY(SELECT s ->> 'keyid' FROM jsonb_array_elements(signatures) AS s WHERE s ->> 'keyid' IS NOT NULL) AS signed_by,
        (SELECT count(*) FROM ota_device_state s WHERE s.version = v.version) AS devices,
        (SELECT count(*) FROM ota_deployments d WHERE d.version_id = v.id AND d.status IN ('pending', 'in_progress')) AS live
    FROM ota_versions v"""


def list_versions(settings: DatabaseSettings, *, limit: int = 100) -> list[VersionView]:
    """Returns versions, the newest first by when they were made."""
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(VersionView)) as cursor:
        return cursor.execute(f"{VIEW} ORDER BY id DESC LIMIT %s".encode(), [limit]).fetchall()


def get_version(settings: DatabaseSettings, version: str) -> VersionView:
    """Returns one version.

    Raises:
        NotFound: there is none.
    """
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(VersionView)) as cursor:
        view = cursor.execute(f"{VIEW} WHERE version = %s".encode(), [version.replace("\0", "")]).fetchone()
    if view is None:
        raise NotFound(f"there is no firmware {version[:60]}; factoryd firmware list shows all")
    return view


def load_signed(settings: DatabaseSettings, version: str) -> tuple[Row, list[Key]]:
    """Returns a version and all keys, to judge its signatures by.

    Raises:
        NotFound: there is no such version.
    """
    with command_connection(settings) as connection:
        return load_row(connection, version), load_keys(connection)
