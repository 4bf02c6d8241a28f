"""The drill of docs/backup.md: load, back up, write on, destroy, restore to a chosen moment, verify, replicate, resume.

Real mosquitto, PostgreSQL with pgBackRest, and the daemon as a process; what is restored, the page's own lines restore.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from factoryd.embedded.directory import free_port
from factoryd.embedded.mosquitto import EmbeddedMosquitto
from tests.backup_plant import BackupPlant, Cluster, backup_plant, owned, until
from tests.e2e.client import Client, Message

DEVICES = ("press-1", "press-2", "press-3")
EACH = 100
"""Readings that one device sends in one go."""
CHECKSUM = "SELECT count(*), coalesce(sum(hashtextextended(r::text, 0)), 0)::text FROM public.{} r"
TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"""
STORED = """
    SELECT (extra->>'batch')::float::int, count(*), count(DISTINCT (device_id, extra->>'n')) FROM sensor_readings
    GROUP BY 1 ORDER BY 1"""
CAUGHT_UP = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn = pg_current_wal_lsn()"


class Site:
    """A broker, a cluster that is backed up, and a daemon between them."""

    def __init__(self, directory: Path, plant: BackupPlant, broker: EmbeddedMosquitto) -> None:
        self.directory, self.plant, self.broker = directory, plant, broker
        self._daemon: subprocess.Popen[bytes] | None = None

    def start_daemon(self) -> None:
        port = free_port()
        environment = {
            **os.environ,
            **self.plant.environment,
            "FACTORYD_DATABASE__OWNER_URL": self.plant.owner_url,
            "FACTORYD_MQTT__URL": self.broker.url,
            "FACTORYD_HTTP__PORT": str(port),
            "FACTORYD_ARCHIVE__URL": "none",
            "FACTORYD_RETENTION__RUN_AT": "never",
            "FACTORYD_RETENTION__READINGS_DAYS": "2",
            "FACTORYD_RETENTION__PARTITIONS_AHEAD_DAYS": "1",
        }
        with (self.directory / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen([sys.executable, "-m", "factoryd", "run"], env=environment, stdout=log, stderr=log)
        daemon = self._daemon

        def said() -> str:
            return (self.directory / "daemon.log").read_text()[-3000:]

        until(lambda: daemon.poll() is not None or _is_ready(port), said)
        assert daemon.poll() is None, said()

    def stop_daemon(self) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGTERM)
            assert self._daemon.wait(60) == 0
            self._daemon = None

    async def publish(self, batch: int) -> None:
        """Sends EACH readings of every device; at the end the broker has acknowledged them."""
        start = datetime.now(UTC)
        async with Client.connected(self.broker.tools_url) as client:
            for device in DEVICES:
                topic = f"factory/devices/{device}/telemetry"
                bodies = [
                    {"recorded_at": (start + timedelta(microseconds=n)).isoformat(), "temperature": n, "batch": batch, "n": n}
                    for n in range(EACH)
                ]
                await client.publish(*[Message(topic, json.dumps(body).encode()) for body in bodies])

    def stored(self, cluster: Cluster | None = None) -> dict[int, tuple[int, int]]:
        """Returns rows and different numbers by batch."""
        return {batch: (rows, numbers) for batch, rows, numbers in (cluster or self.plant.cluster).sql(STORED)}

    async def until_stored(self, batch: int) -> None:
        await asyncio.to_thread(until, lambda: self.stored().get(batch, (0, 0))[0] >= EACH * len(DEVICES), self.stored)

    def fingerprint(self) -> dict[str, tuple[int, str]]:
        """Returns count and checksum of every table."""
        sql = self.plant.cluster.sql
        return {table: sql(CHECKSUM.format(table))[0] for (table,) in sql(TABLES)}


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[BackupPlant]:
    with backup_plant(tmp_path / "cluster") as plant:
        plant.set_up()
        values = ",".join(f"('{name}','press','press','hall')" for name in DEVICES)
        plant.cluster.sql(f"INSERT INTO devices (device_id, name, type, location) VALUES {values}")
        yield plant


@pytest.fixture
async def site(tmp_path: Path, plant: BackupPlant) -> AsyncIterator[Site]:
    (tmp_path / "broker").mkdir()
    async with EmbeddedMosquitto(tmp_path / "broker") as broker:
        site = Site(tmp_path, plant, broker)
        try:
            yield site
        finally:
            site.stop_daemon()


async def test_a_destroyed_cluster_comes_back_as_of_a_chosen_moment(site: Site) -> None:
    plant, cluster, all_of_it = site.plant, site.plant.cluster, EACH * len(DEVICES)

    await _back_up_and_write_on(site)
    recorded = site.fingerprint()
    ((moment,),) = cluster.sql("SELECT clock_timestamp()")

    # A mistake, and then the loss of everything; messages go on coming.
    site.start_daemon()
    await site.publish(4)
    await site.until_stored(4)
    cluster.sql("DELETE FROM sensor_readings WHERE extra->>'batch' = '1'")
    cluster.archived()
    cluster.destroy()
    await site.publish(5)

    # 1: the recovery point, with no database to ask. The daemon is stopped; the broker keeps what comes.
    site.stop_daemon()
    await site.publish(6)
    backups = plant.status()["backups"]
    assert [backup["kind"] for backup in backups] == ["full", "incr"]
    assert datetime.fromisoformat(backups[-1]["stopped_at"]) < moment

    # 2: restore.
    began = datetime.now(UTC)
    restored = plant.follow("2. Restore", DATA=str(cluster.data), MOMENT=moment.isoformat())
    assert backups[-1]["label"] in restored
    cluster.start()
    until(lambda: cluster.sql("SELECT pg_is_in_recovery()") == [(False,)], lambda: cluster.log.read_text()[-3000:])
    took = datetime.now(UTC) - began

    # 3: verify.
    assert site.fingerprint() == recorded
    assert site.stored() == dict.fromkeys((1, 2, 3), (all_of_it, all_of_it))
    owned(
        [
            str(cluster.binaries / "pg_amcheck"),
            "-h",
            str(cluster.sockets),
            "-p",
            str(cluster.port),
            "-U",
            "postgres",
            "--install-missing",
            "factoryd",
        ]
    )

    # 4: a replica; but first the segment in which the new timeline begins must be in the archive. Otherwise the replica would
    # find that of the old one, and replay what came after the chosen moment.
    replica = Cluster(site.directory / "cluster" / "replica", settings={"hot_standby": "on"})
    primary = f"host={cluster.sockets} port={cluster.port} user=postgres"
    plant.follow("4. Replicas", DATA=str(replica.data), PRIMARY=primary)
    replica.start()
    try:
        until(lambda: cluster.sql(CAUGHT_UP) == [(1,)], lambda: replica.log.read_text()[-3000:])
        assert site.stored(replica) == site.stored()

        # 5: resume. What came while the database was away arrives, each message once.
        site.start_daemon()
        for batch in (5, 6):
            await site.until_stored(batch)
        assert site.stored() == dict.fromkeys((1, 2, 3, 5, 6), (all_of_it, all_of_it))
        until(lambda: site.stored(replica) == site.stored(), lambda: site.stored(replica))
    finally:
        replica.stop()
    plant.follow("5. Resume")
    assert [backup["kind"] for backup in plant.status()["backups"]] == ["full", "incr", "full"]
    print(f"restored in {took.total_seconds():.1f} s")


async def _back_up_and_write_on(site: Site) -> None:
    site.start_daemon()
    for batch, backup in ((1, "full"), (2, "incr"), (3, None)):
        await site.publish(batch)
        await site.until_stored(batch)
        if backup:
            site.plant.good("run", backup)
    site.stop_daemon()  # nothing is written between what will be recorded and its time
    ended = datetime.fromisoformat(site.plant.status()["backups"][-1]["stopped_at"])
    until(lambda: datetime.now(UTC) >= ended + timedelta(seconds=1), lambda: ended)  # pgBackRest compares whole seconds


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
