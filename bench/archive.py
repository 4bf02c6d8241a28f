"""The measurement of the archive: a day of four million readings to Parquet and back, beside COPY of the same rows."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta

import psycopg

from bench.frames import DEVICES
from bench.ground import Ground
from bench.measures import Figures
from storage.copy_out import copied_blocks
from storage.partitions import ensure_partitions, partition_name

ROWS = 4_000_000
DAYS_AGO = 95
RATE = 5_000.0
NICE = ("nice", "-n", "19")
"""As the daemon and the timer run it."""

# What machines send: values of a decimal or two that wander, every device at its own phase; the clock is right to milliseconds.
FILL = f"""
    INSERT INTO sensor_readings (device_id, temperature, humidity, pressure, vibration, power_consumption, rpm, recorded_at,
        received_at, created_at)
    SELECT d.id, round((60 + 9 * sin(n / 900.0 + d.id) + 0.4 * random())::numeric, 1), round((40 + 5 * random())::numeric, 1),
        round((101.3 + 0.1 * random())::numeric, 2), round((2 * random())::numeric, 2), round(900 + 60 * random()),
        round(1450 + 10 * random()), at, at + random() * interval '20 ms', date_trunc('second', at)
    FROM generate_series(0, {ROWS // DEVICES - 1}) AS n, devices d,
        LATERAL (SELECT %s::timestamptz + n * interval '1 day' / {ROWS // DEVICES} + d.id * interval '7 ms' AS at) AS t"""


ROLLED = """
    INSERT INTO daemon_state (key, value) VALUES ('readings_rolled_until', date_trunc('minute', now())::text)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
"""As it is after 95 days of work: roll-ups are made a minute after the readings came."""


async def measure(ground: Ground) -> Figures:
    """Rates in rows/s, the file's share of the heap, peak memory, and ingest while it runs beside before."""
    ground.clear()
    day = datetime.now(UTC).date() - timedelta(days=DAYS_AGO)
    heap = await asyncio.to_thread(_fill, ground, day)
    copy_to = await asyncio.to_thread(_copy_to, ground, day)
    alone = await asyncio.to_thread(_archive, ground)
    ground.execute("TRUNCATE archive_files")
    await asyncio.to_thread(_fill, ground, day)
    archived = await _archive_beside_ingest(ground)
    (size,) = ground.execute("SELECT size_bytes FROM archive_files ORDER BY id DESC LIMIT 1")[0]
    restored = await asyncio.to_thread(_restore, ground, day)
    copy_from = await asyncio.to_thread(_copy_from, ground)
    ground.execute("DROP TABLE restored_sensor_readings, yardstick; TRUNCATE archive_files, job_runs")
    ground.clear()
    return {
        **alone,
        **archived,
        "copy_to_rate": copy_to,
        "share_of_heap": float(str(size)) / heap,
        **restored,
        "copy_from_rate": copy_from,
    }


def _fill(ground: Ground, day: date) -> int:
    """Returns the bytes of the day's heap."""
    ensure_partitions(ground.owner_url, DAYS_AGO, 1, datetime.now(UTC).date())
    with psycopg.connect(ground.superuser_url(), autocommit=True) as superuser:
        superuser.execute("SET session_replication_role = replica")  # no foreign key is checked four million times
        superuser.execute(FILL.encode(), [f"{day} 00:00:00+00"])
        superuser.execute(ROLLED)
        superuser.execute("VACUUM ANALYZE sensor_readings")
        superuser.execute("CHECKPOINT")
    return int(str(ground.execute(f"SELECT pg_relation_size('{partition_name(day)}')")[0][0]))


def _copy_to(ground: Ground, day: date) -> float:
    """The day as text to a client that throws it away, as it lies in the heap."""
    with psycopg.connect(ground.owner_url, autocommit=True) as connection:
        started = time.perf_counter()
        for _ in copied_blocks(connection, f"COPY {partition_name(day)} TO STDOUT".encode(), 1 << 20):
            pass
        return ROWS / (time.perf_counter() - started)


def _archive(ground: Ground) -> Figures:
    """At full speed: no daemon is there."""
    peak = _command(ground, "maintenance", "run")
    began, ended = _last_run(ground)
    return {"rate": ROWS / (ended - began), "peak_mb": peak / 1e6}


async def _archive_beside_ingest(ground: Ground) -> Figures:
    """While a daemon leads: the export keeps its pace."""
    async with ground.product():
        await ground.publish("--rate", str(RATE), "--seconds", "2")
        before_at = time.time()
        await ground.publish("--rate", str(RATE), "--seconds", "8")
        publishing = asyncio.create_task(ground.publish("--rate", str(RATE), "--seconds", "20"))
        await asyncio.to_thread(_command, ground, "maintenance", "run")
        began, ended = _last_run(ground)
        await publishing
    before, during = _p99(ground, before_at, before_at + 8), _p99(ground, began, ended)
    return {"paced_rate": ROWS / (ended - began), "p99_before_ms": before, "p99_during_ms": during}


RUN = """
    SELECT extract(epoch FROM started_at), extract(epoch FROM finished_at) FROM job_runs
    WHERE job = 'maintenance' AND outcome = 'done' ORDER BY id DESC LIMIT 1"""


def _last_run(ground: Ground) -> tuple[float, float]:
    began, ended = ground.execute(RUN)[0]
    return float(str(began)), float(str(ended))


def _p99(ground: Ground, began: float, ended: float) -> float:
    """Publish → commit in ms of what was published in between."""
    delay = "extract(epoch FROM pg_xact_commit_timestamp(xmin) - recorded_at) * 1000"
    rows = ground.execute(
        f"SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY {delay}) FROM sensor_readings"
        f" WHERE recorded_at >= to_timestamp({began}) AND recorded_at < to_timestamp({ended})"
    )
    return float(str(rows[0][0]))


def _restore(ground: Ground, day: date) -> Figures:
    started = time.perf_counter()
    _command(ground, "archive", "list", "-o", "json")
    begun = time.perf_counter()
    peak = _command(ground, "archive", "restore", "--table", "sensor_readings", "--from", str(day))
    seconds = time.perf_counter() - begun - (begun - started)  # what a command takes to start is not the restore's
    assert ground.execute("SELECT count(*) FROM restored_sensor_readings")[0][0] == ROWS
    return {"restore_rate": ROWS / seconds, "restore_peak_mb": peak / 1e6}


def _copy_from(ground: Ground) -> float:
    """The same rows in binary into a table of the same kind, with nothing around it."""
    with psycopg.connect(ground.owner_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE yardstick (LIKE sensor_readings INCLUDING DEFAULTS)")
        names = "id, device_id, temperature, humidity, pressure, vibration, power_consumption, rpm, recorded_at, received_at"
        query = f"COPY (SELECT {names} FROM restored_sensor_readings) TO STDOUT (FORMAT BINARY)"
        with tempfile.TemporaryFile(dir=ground.directory) as file:  # not in memory: a child's peak would begin with ours
            file.writelines(copied_blocks(connection, query.encode(), 1 << 20))
            file.seek(0)
            started = time.perf_counter()
            with connection.cursor().copy(f"COPY yardstick ({names}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
                while block := file.read(1 << 20):
                    copy.write(block)
        return ROWS / (time.perf_counter() - started)


def _command(ground: Ground, *words: str) -> int:
    """Runs factoryd, and returns its peak resident memory in bytes."""
    environment = {**os.environ, **ground.services.urls.environment()}
    process = subprocess.Popen([*NICE, sys.executable, "-m", "factoryd", *words], env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return used.ru_maxrss * 1024
