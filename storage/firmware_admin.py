"""Firmware versions as people make and sign them. The daemon notices every change within a second (triggers, NOTIFY)."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import psycopg
from psycopg.types.json import Jsonb

from config.settings import DatabaseSettings
from ota.firmware import Version
from ota.manifest import BadManifest, build, mismatch, read
from ota.signing import MOST_SIGNATURES, why_not_trusted
from storage.command_connection import command_connection
from storage.firmware_fields import Artifact, NewVersion, check_artifact, check_version
from storage.firmware_rows import find_row, firmware_change, load_draft, load_keys, load_others
from storage.refusals import Conflict, InvalidInput
from storage.users import refuse_stranger

ADD = """
    INSERT INTO ota_versions (version, firmware_url, size_bytes, sha256, hardware, min_version, downgrade, release_notes,
        created_by)
    VALUES (%(version)s, %(url)s, %(size)s, %(sha256)s, %(hardware)s, %(min)s, %(downgrade)s, %(notes)s, %(actor)s)"""
REPLACE = """
    UPDATE ota_versions SET firmware_url = %(url)s, size_bytes = %(size)s, sha256 = %(sha256)s, hardware = %(hardware)s,
        min_version = %(min)s, downgrade = %(downgrade)s, release_notes = %(notes)s, created_by = %(actor)s,
        manifest = NULL, signatures = '[]', expires_at = NULL
    WHERE version = %(version)s"""
ATTACH = "UPDATE ota_versions SET manifest = %s, manifest_seq = %s, expires_at = %s, signatures = %s WHERE id = %s"

UNTRUSTED = {
    "unsigned": "it has no signature",
    "revoked_key": "the key is revoked",
    "bad_signature": "the signature is not one of an active key over these bytes",
    "manifest_mismatch": "the manifest says something else than the version",
}


def check_addable(settings: DatabaseSettings, new: NewVersion, *, replace: bool) -> None:
    """Looks, before a file is uploaded, whether the version may be added.

    Raises:
        InvalidInput: a field cannot be used.
        NotFound: no such person.
        Conflict: there is this version already.
    """
    check_version(new)
    with command_connection(settings) as connection:
        _refuse(connection, new, replace=replace)


def add_version(settings: DatabaseSettings, new: NewVersion, artifact: Artifact, *, replace: bool = False) -> None:
    """Stores a draft.

    Args:
        settings: the database.
        new: what it is.
        artifact: its file.
        replace: a draft of the same version is written anew, and loses its signatures.

    Raises:
        As `check_addable`.
    """
    check_version(new)
    check_artifact(artifact)
    values = {
        "version": new.version,
        "url": artifact.url,
        "size": artifact.size_bytes,
        "sha256": artifact.sha256,
        "hardware": list(dict.fromkeys(new.hardware)),
        "min": new.min_version,
        "downgrade": new.downgrade,
        "notes": new.notes,
        "actor": new.actor,
    }
    with firmware_change(settings) as connection:
        there = _refuse(connection, new, replace=replace)
        connection.execute(REPLACE if there else ADD, values)


def next_manifest(settings: DatabaseSettings, version: str, now: datetime, expires_at: datetime) -> bytes:
    """Returns the unsigned manifest of a draft, with a sequence number of its own, above all that there are.

    Raises:
        NotFound: there is no such version.
        Conflict: it is released, or a fact is missing.
    """
    with firmware_change(settings) as connection:
        draft = load_draft(connection, version)
        highest = max((row.version.manifest_seq or 0 for row in load_others(connection, draft)), default=0)
        number = draft.manifest_seq if draft.manifest_seq is not None and draft.manifest_seq > highest else highest + 1
        try:
            manifest = build(draft, number, now, expires_at)
        except BadManifest as error:
            raise Conflict(f"{error}; factoryd firmware add {version} --replace states it") from error
        if draft.manifest is None:
            connection.execute("UPDATE ota_versions SET manifest_seq = %s WHERE id = %s", [number, draft.id])
        return manifest


def attach_signature(
    settings: DatabaseSettings, version: str, manifest: bytes, signature: Mapping[str, str], now: datetime
) -> int:
    """Gives a draft its manifest with a signature, next to others of the same bytes; returns how many there are now.

    Raises:
        NotFound: there is no such version.
        InvalidInput: this is no manifest.
        Conflict: the signature is not of an active key, or manifest and version differ, or it cannot be released so.
    """
    try:
        signed = read(manifest)
    except BadManifest as error:
        raise InvalidInput(f"the manifest cannot be used: {error}") from error
    with firmware_change(settings) as connection:
        draft = load_draft(connection, version)
        alone = draft._replace(
            manifest=manifest, manifest_seq=signed.seq, expires_at=signed.expires_at, signatures=[dict(signature)]
        )
        refuse_untrusted(connection, alone)
        refuse_stale(connection, alone, now)
        written: Sequence[object] = draft.signatures  # by whoever writes the table
        others = [each for each in written if isinstance(each, Mapping) and each.get("keyid") != signature["keyid"]]
        signatures = [*(others if draft.manifest == manifest else []), dict(signature)]
        if len(signatures) > MOST_SIGNATURES:
            raise Conflict(
                f"{version} has {MOST_SIGNATURES} signatures, and commands have no room for more; sign a manifest of its own:"
                f" factoryd firmware manifest {version}"
            )
        connection.execute(ATTACH, [manifest, signed.seq, signed.expires_at, Jsonb(signatures), draft.id])
        return len(signatures)


def refuse_untrusted(connection: psycopg.Connection, version: Version) -> None:
    """Raises Conflict unless an active key has signed the version: retired ones sign nothing new."""
    keys = load_keys(connection)
    problem = why_not_trusted(version, [key for key in keys if key.status != "retired"])
    if problem is None:
        return
    if problem == "bad_signature" and why_not_trusted(version, keys) is None:
        raise Conflict(f"{version.version}: the key that signed it is retired; sign it with an active one")
    detail = f": {mismatch(version)}" if problem == "manifest_mismatch" else ""
    raise Conflict(f"{version.version}: {UNTRUSTED[problem]}{detail}; see factoryd firmware key list, factoryd firmware sign")


def refuse_stale(connection: psycopg.Connection, version: Version, now: datetime) -> None:
    """Raises Conflict if the manifest has expired, or devices may have seen a newer one."""
    if version.expires_at is not None and version.expires_at <= now:
        raise Conflict(f"{version.version}: the manifest expired at {version.expires_at:%Y-%m-%d %H:%M}Z; sign it anew")
    released = [row.version for row in load_others(connection, version) if row.status != "draft"]
    newest = max(released, key=lambda each: each.manifest_seq or 0, default=None)
    if newest is not None and version.manifest_seq is not None and version.manifest_seq <= (newest.manifest_seq or 0):
        raise Conflict(
            f"{version.version}: manifest {version.manifest_seq} is not above {newest.manifest_seq}, that of the released"
            f" {newest.version}: devices would take it for old; sign it anew"
        )


def _refuse(connection: psycopg.Connection, new: NewVersion, *, replace: bool) -> bool:
    """Returns True if there is a draft that may be replaced."""
    refuse_stranger(connection, new.actor)
    there = find_row(connection, new.version)
    if there is not None and there.status != "draft":
        raise Conflict(f"firmware {new.version} is {there.status}: what was released stays as it is; choose another version")
    if there is not None and not replace:
        raise Conflict(f"there is a draft {new.version} already; --replace writes it anew")
    return there is not None
