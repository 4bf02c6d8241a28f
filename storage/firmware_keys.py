"""Keys whose signatures count. Several at a time, so that they can be changed while releases go on."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import errors
from psycopg.rows import class_row

from config.settings import DatabaseSettings
from ota.signing import keyid_of
from storage.command_connection import command_connection
from storage.firmware_rows import firmware_change
from storage.refusals import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as people see it."""

    keyid: str
    status: str
    """active; retired: signs nothing new; revoked: nothing it signed is sent."""
    note: str | None
    versions: int
    """Released versions with a signature that says to be of this key."""
    public_key: str
    created_at: datetime
    ended_at: datetime | None


LIST = """
    SELECT keyid, status, note, encode(public_key, 'base64') AS public_key, created_at, ended_at,
        (SELECT count(*) FROM ota_versions v WHERE v.status <> 'draft'
            AND v.signatures @> jsonb_build_array(jsonb_build_object('keyid', k.keyid))) AS versions
    FROM ota_keys k"""
END = "UPDATE ota_keys SET status = %s, ended_at = now() WHERE keyid = %s"


def add_key(settings: DatabaseSettings, public_key: bytes, note: str | None) -> str:
    """Trusts a key, and returns its name.

    Raises:
        Conflict: it is there, or was; a key that has ended does not come back.
    """
    keyid = keyid_of(public_key)
    with command_connection(settings) as connection:
        try:
            connection.execute("INSERT INTO ota_keys (keyid, public_key, note) VALUES (%s, %s, %s)", [keyid, public_key, note])
        except errors.UniqueViolation as error:
            raise Conflict(f"key {keyid} is known already; factoryd firmware key list shows how it stands") from error
    return keyid


def list_keys(settings: DatabaseSettings) -> list[KeyView]:
    """Returns all keys, the oldest first."""
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(KeyView)) as cursor:
        return cursor.execute(f"{LIST} ORDER BY created_at, keyid".encode()).fetchall()


def end_key(settings: DatabaseSettings, keyid: str, status: str) -> KeyView:
    """Retires or revokes a key, and returns how it stood.

    Raises:
        NotFound: there is no such key.
        Conflict: it has ended so already; what is revoked stays revoked.
    """
    with firmware_change(settings) as connection:
        with connection.cursor(row_factory=class_row(KeyView)) as cursor:
            key = cursor.execute(f"{LIST} WHERE keyid = %s FOR UPDATE".encode(), [keyid.replace("\0", "")]).fetchone()
        if key is None:
            raise NotFound(f"there is no key {keyid[:40]}; factoryd firmware key list shows all")
        if key.status in {status, "revoked"}:
            raise Conflict(f"key {keyid} is {key.status} already")
        connection.execute(END, [status, keyid])
        return key
