"""What the hardware and the servers can do at best, measured in the same run."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

import psycopg

from storage.upsert import COLUMNS, TYPES

BATCH = 10_000
NAMES = ", ".join(COLUMNS)


def fsync_s(directory: Path) -> float:
    """Median seconds of an 8 kB write and fdatasync in the database's file system."""
    times = []
    with (directory / "fsync.probe").open("wb") as file:
        for _ in range(200):
            started = time.perf_counter()
            file.write(b"\0" * 8192)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def round_trip_s(url: str) -> float:
    """Median seconds of SELECT 1."""
    times = []
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(500):
            started = time.perf_counter()
            connection.execute("SELECT 1")
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def stored_rows(owner_url: str) -> list[tuple[Any, ...]]:
    """Returns the rows that a run has stored, in the order they were stored."""
    with psycopg.connect(owner_url) as connection:
        return connection.execute(f"SELECT {NAMES} FROM sensor_readings ORDER BY id".encode(), binary=True).fetchall()


def raw_copy_s(daemon_url: str, rows: list[tuple[Any, ...]]) -> float:
    """Seconds to COPY the rows in batches, a transaction each, by the foreign-key path of the product."""
    with psycopg.connect(daemon_url, autocommit=True) as connection:
        started = time.perf_counter()
        for first in range(0, len(rows), BATCH):
            with connection.transaction():
                connection.execute("SELECT id FROM devices WHERE retired_at IS NULL FOR KEY SHARE")
                connection.execute("SET LOCAL session_replication_role = replica")
                with connection.cursor().copy(f"COPY sensor_readings ({NAMES}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
                    copy.set_types(TYPES)
                    for row in rows[first : first + BATCH]:
                        copy.write_row(row)
        return time.perf_counter() - started
