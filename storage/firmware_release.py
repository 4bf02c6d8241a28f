"""From draft to released, and how a released version ends: deprecated (nothing new) or recalled (sent to nobody)."""

from datetime import datetime

import psycopg

from config.settings import DatabaseSettings
from ota.firmware import Version
from ota.versions import precedence
from storage.firmware_admin import refuse_stale, refuse_untrusted
from storage.firmware_rows import Row, firmware_change, load_draft, load_others, load_row
from storage.objects import Content
from storage.refusals import Conflict
from storage.users import refuse_stranger

RELEASE = "UPDATE ota_versions SET status = 'released', released_at = now(), released_by = %s WHERE id = %s"
RECALL = "UPDATE ota_versions SET recalled_at = now(), recall_reason = %s WHERE id = %s"
LIVE = "SELECT count(*) FROM ota_deployments WHERE version_id = %s AND status IN ('pending', 'in_progress')"


def release_version(
    settings: DatabaseSettings, seen: Version, content: Content | None, actor: str, now: datetime, *, allow_unsigned: bool
) -> None:
    """Releases a draft: devices may get it, and it never changes again.

    Args:
        settings: the database.
        seen: the draft as it was when its file was read.
        content: what the file held, or None: nobody has looked.
        actor: who does it.
        now: our clock.
        allow_unsigned: also without any signature; a bad one is refused all the same.

    Raises:
        NotFound: no such version or person.
        Conflict: it must not be released; the text says why.
    """
    with firmware_change(settings) as connection:
        refuse_stranger(connection, actor)
        draft = load_draft(connection, seen.version)
        if draft != seen:
            raise Conflict(f"{seen.version} was changed meanwhile; look at it again: factoryd firmware show {seen.version}")
        refuse_content(draft, content)
        _refuse_twin(draft, load_others(connection, draft))
        if draft.signatures or not allow_unsigned:
            refuse_untrusted(connection, draft)
        refuse_stale(connection, draft, now)
        connection.execute(RELEASE, [actor, draft.id])


def deprecate_version(settings: DatabaseSettings, version: str) -> None:
    """Marks a released version as not to be chosen any more; what is under way goes on.

    Raises:
        NotFound: there is no such version.
        Conflict: it is not released.
    """
    with firmware_change(settings) as connection:
        row = load_row(connection, version)
        if row.status != "released":
            raise Conflict(f"firmware {version} is {row.status}: only what is released can be deprecated")
        connection.execute("UPDATE ota_versions SET status = 'deprecated' WHERE id = %s", [row.version.id])


def recall_version(settings: DatabaseSettings, version: str, reason: str) -> int:
    """Lets a released version be sent to nobody any more; returns how many deployments of it are live.

    Raises:
        NotFound: there is no such version.
        Conflict: it is a draft, or recalled.
    """
    with firmware_change(settings) as connection:
        row = load_row(connection, version)
        if row.status == "draft" or row.recalled:
            what = "recalled already" if row.recalled else "a draft, which nobody is sent"
            raise Conflict(f"firmware {version} is {what}")
        connection.execute(RECALL, [reason, row.version.id])
        return _live(connection, row.version)


def refuse_content(version: Version, content: Content | None) -> None:
    """Raises Conflict if the file is not what the version says, or the version does not say it."""
    if version.size_bytes is None or version.sha256 is None:
        raise Conflict(f"{version.version}: size and sha256 are not known; factoryd firmware add {version.version} --replace")
    if content is not None and content != (version.size_bytes, version.sha256):
        raise Conflict(
            f"{version.version}: the file holds {content.size_bytes} bytes with sha256 {content.sha256}, and not"
            f" {version.size_bytes} with {version.sha256}: it was damaged or exchanged; add it anew"
        )


def _refuse_twin(version: Version, others: list[Row]) -> None:
    """Build metadata is of no consequence (SemVer 10): no device could tell which of two is newer."""
    rank = precedence(version.version)
    for row in others:
        if row.status != "draft" and rank is not None and precedence(row.version.version) == rank:
            raise Conflict(f"{version.version}: differs from the released {row.version.version} only in what follows +")


def _live(connection: psycopg.Connection, version: Version) -> int:
    row = connection.execute(LIVE, [version.id]).fetchone()
    assert row is not None, "an aggregate"
    return int(row[0])
