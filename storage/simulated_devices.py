"""Registers simulated devices, known by `simulated` in their metadata: a real device's credentials are never touched."""

from collections.abc import Mapping, Sequence

from config.settings import DatabaseSettings
from storage.command_connection import command_connection, registry_change
from storage.device_import import Imported, Line, import_devices
from storage.refusals import Conflict

MARK = {"simulated": True}

REAL = """
    SELECT device_id FROM devices WHERE device_id = ANY(%s) AND metadata ->> 'simulated' IS DISTINCT FROM 'true'
    ORDER BY device_id LIMIT 1"""

SAVE = """
    INSERT INTO device_credentials AS c (device_id, secret_hash)
    SELECT d.id, t.hash FROM unnest(%s::text[], %s::text[]) AS t (name, hash) JOIN devices d ON d.device_id = t.name
    ON CONFLICT (device_id) DO UPDATE SET secret_hash = excluded.secret_hash, rotated_at = now()"""


def register_simulated(settings: DatabaseSettings, lines: Sequence[Line], hashes: Mapping[str, str]) -> Imported:
    """Registers or updates the devices, and gives some of them new secrets.

    Args:
        settings: the database.
        lines: the devices.
        hashes: hashed secrets by device.

    Raises:
        Conflict: one of them is a real device.
        BadLines: a field cannot be used.
    """
    with command_connection(settings) as connection:
        real = connection.execute(REAL, [[line.device for line in lines]]).fetchone()
    if real is not None:
        raise Conflict(f"device {real[0]} is registered and not a simulated one; choose other names with --prefix")
    marked = [line._replace(fields={**line.fields, "metadata": MARK}) for line in lines]
    done = import_devices(settings, marked)
    with registry_change(settings) as connection:
        connection.execute(SAVE, [list(hashes), list(hashes.values())])
    return done
