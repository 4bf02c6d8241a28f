"""Devices, a person and readings for the tests of `factoryd threshold`."""

from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database

LATEST = """
    INSERT INTO device_latest (device_id, temperature, recorded_at, received_at, extra)
    SELECT id, 71.5, now(), now(), '{"oil": 1.5, "door": true, "device_recorded_at": "2030-01-01T00:00:00Z"}'
    FROM devices WHERE device_id = %s"""
READINGS = """
    INSERT INTO sensor_readings (device_id, temperature, recorded_at, received_at)
    SELECT d.id, value, now() - age * interval '1 minute', now()
    FROM devices d, unnest(%s::float8[]) WITH ORDINALITY AS r (value, age) WHERE d.device_id = %s"""
HEADER = "device,select,metric,min,max,severity,for,hysteresis,clear,max-gap,no-data,instruction,owner,enabled"


def registered(database: Database) -> CommandLine:
    """With three devices, of which press-1 has sent something."""
    factoryd = CommandLine(database.daemon)
    for name in ("press-1", "press-2"):
        factoryd.good("device", "add", name, "--type", "press", "--location", "hall-2")
    factoryd.good("device", "add", "lathe-1", "--type", "lathe")
    factoryd.good("user", "add", "anna", "--email", "anna@example.com")
    rows(database.owner, LATEST, "press-1")
    return factoryd
