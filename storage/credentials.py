"""The devices' accounts at the broker. Only hashes are kept, in mosquitto's own format (`mqtt.access`)."""

from typing import NamedTuple

from config.settings import DatabaseSettings
from storage.command_connection import command_connection, registry_change
from storage.device_views import not_registered
from storage.refusals import Conflict

SAVE = """
    INSERT INTO device_credentials AS c (device_id, secret_hash) VALUES (%s, %s)
    ON CONFLICT (device_id) DO UPDATE SET secret_hash = excluded.secret_hash, rotated_at = now()
    RETURNING c.rotated_at IS NOT NULL"""

# A gateway speaks for its own children, and for those behind them.
ACCOUNTS = """
    WITH RECURSIVE behind AS (
        SELECT via_id AS gateway, id FROM devices WHERE via_id IS NOT NULL AND retired_at IS NULL
        UNION SELECT behind.gateway, d.id FROM behind JOIN devices d ON d.via_id = behind.id WHERE d.retired_at IS NULL
    )
    SELECT d.device_id, c.secret_hash, coalesce((
        SELECT array_agg(child.device_id ORDER BY child.device_id)
        FROM behind JOIN devices child ON child.id = behind.id WHERE behind.gateway = d.id), '{}')
    FROM device_credentials c JOIN devices d ON d.id = c.device_id
    WHERE d.retired_at IS NULL ORDER BY d.device_id"""

# Gateways are configuration of devices, secrets are accounts: a change of either may change who may say what.
VERSIONS = "SELECT name, version FROM cache_versions WHERE name IN ('accounts', 'devices') ORDER BY name"


class AccountRow(NamedTuple):
    """One device's account at the broker, in the order of `mqtt.access.Account`."""

    name: str
    secret_hash: str
    speaks_for: tuple[str, ...]
    """Devices behind it, if it is a gateway."""


def save_secret(settings: DatabaseSettings, device: str, secret_hash: str) -> bool:
    """Keeps a device's new secret, in place of the old one if it has one.

    Returns:
        Whether it had one.

    Raises:
        NotFound: the device is not registered.
        Conflict: it is retired.
    """
    with registry_change(settings) as connection:
        row = connection.execute("SELECT id, retired_at FROM devices WHERE device_id = %s", [device]).fetchone()
        if row is None:
            raise not_registered(connection, device)
        if row[1] is not None:
            raise Conflict(f"device {device} is retired; factoryd device edit {device} --active takes it back")
        saved = connection.execute(SAVE, [row[0], secret_hash]).fetchone()
        return bool(saved and saved[0])


def load_accounts(settings: DatabaseSettings) -> list[AccountRow]:
    """Returns the accounts of all devices that have a secret and are not retired."""
    with command_connection(settings) as connection:
        rows = connection.execute(ACCOUNTS).fetchall()
    return [AccountRow(name, secret_hash, tuple(children)) for name, secret_hash, children in rows]


def accounts_version(settings: DatabaseSettings) -> tuple[tuple[str, int], ...]:
    """Returns numbers that change whenever `load_accounts` may have changed."""
    with command_connection(settings) as connection:
        return tuple((name, version) for name, version in connection.execute(VERSIONS).fetchall())
