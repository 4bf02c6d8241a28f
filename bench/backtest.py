"""The measurement of back-tests: `factoryd threshold try` over ten million readings of one device, as a user calls it."""

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import psycopg

from bench.frames import device
from bench.ground import Ground
from bench.measures import Figures
from storage.partitions import ensure_partitions

READINGS = 10_000_000
DAYS = 30
# 40 times in the 30 days it gets hot, with noise of three degrees: some alerts, and what would halve them.
FILL = f"""
    INSERT INTO sensor_readings (device_id, temperature, humidity, pressure, vibration, power_consumption, rpm, recorded_at,
        received_at, extra)
    SELECT d.id, 60 + 22 * sin(n * 80 * pi() / {READINGS}) + 3 * random(), 100 * random(), 101.3, random(), 1000 * random(),
        900, at, at + interval '40 ms', jsonb_build_object('torque', round((50 * random())::numeric, 2))
    FROM devices d, generate_series(1, {READINGS}) AS n,
        LATERAL (SELECT now() - interval '{DAYS} days' + n * (interval '{DAYS} days' / {READINGS + 1}) AS at) AS t
    WHERE d.device_id = '{device(0)}'"""
SCAN = "SELECT count(temperature), max(temperature), max(received_at) FROM sensor_readings"


async def measure(ground: Ground) -> Figures:
    """Seconds from the call to the answer, and peak memory, for a column and for a metric beyond the six.

    `scan_s`: PostgreSQL alone looks at every reading once, as the least that anybody needs.
    """
    ground.clear()
    await asyncio.to_thread(_fill, ground)
    started = time.perf_counter()
    ground.execute(SCAN)
    figures = {"scan_s": time.perf_counter() - started}
    for metric, limit in (("temperature", 80), ("torque", 49.9)):
        seconds, peak_bytes = await asyncio.to_thread(_try, ground, metric, limit)
        figures |= {f"{metric}_s": seconds, f"{metric}_peak_mb": peak_bytes / 1e6}
    ground.clear()
    return figures


def _fill(ground: Ground) -> None:
    ensure_partitions(ground.owner_url, DAYS + 1, 1, datetime.now(UTC).date())
    with psycopg.connect(ground.superuser_url(), autocommit=True) as superuser:
        superuser.execute("SET session_replication_role = replica")  # no foreign key is checked ten million times
        superuser.execute(FILL.encode())
        superuser.execute("VACUUM ANALYZE sensor_readings")
        superuser.execute("CHECKPOINT")


def _try(ground: Ground, metric: str, limit: float) -> tuple[float, int]:
    """Runs the command, and returns its wall time in seconds and its peak resident memory in bytes."""
    command = [sys.executable, "-m", "factoryd", "threshold", "try", device(0), metric, "--max", str(limit)]
    environment = {**os.environ, **ground.services.urls.environment()}
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--since", f"{DAYS + 1}d"], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert f"{READINGS:,} readings" in said, said
    return seconds, used.ru_maxrss * 1024
