"""The measurements of `make bench`. Each returns figures of one run; `bench.__main__` pairs them and takes medians."""

import asyncio
import json
import statistics
from datetime import UTC, datetime, timedelta

from bench import yardsticks
from bench.frames import SPACING
from bench.ground import Ground, children_cpu_s, usage

Figures = dict[str, float]


def next_start(ground: Ground, readings: int) -> str:
    """Returns a time of first reading, later than all before: each run's readings are new."""
    ground.minute += 1 + int(readings * SPACING / timedelta(minutes=1))
    return (
        datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=20) + timedelta(minutes=ground.minute)
    ).isoformat()


async def live_null(ground: Ground, count: int, per_message: int = 1) -> Figures:
    """Publisher → broker → null subscriber; rates in readings per second."""
    subscriber = await ground.null_subscriber(count)
    options = ["--count", str(count), "--start", next_start(ground, count * per_message)]
    published = await ground.publish(*options, "--per-message", str(per_message))
    output, _ = await subscriber.communicate()
    end = json.loads(output)
    return {"rate": count * per_message / (end["ended"] - published.started), "cpu_us": end["cpu"] / count * 1e6}


async def live_product(ground: Ground, count: int, per_message: int = 1) -> Figures:
    """Publisher → broker → factoryd → committed rows; rates in readings per second."""
    ground.clear()
    async with ground.product() as product:
        before = cpu_s(ground, product.process.pid)
        options = ["--count", str(count), "--start", next_start(ground, count * per_message)]
        published, _ = await asyncio.gather(
            ground.publish(*options, "--per-message", str(per_message)), product.settled(count * per_message)
        )
        after = cpu_s(ground, product.process.pid)
        stored = product.metric('factoryd_ingest_readings_total{verdict="stored"}')
    assert stored == count * per_message, f"{stored} of {count * per_message} readings stored"
    seconds = ground.last_commit() - published.started
    return {"rate": count * per_message / seconds, **_per_million(before, after, count * per_message)}


async def drain_product(ground: Ground, count: int, repeat_every: int = 0, *, late: bool = False) -> Figures:
    """A queue of `count` messages at the broker → committed rows; from CONNACK on.

    With `late`, every device has a newer reading stored already: all go through the merging upsert.
    """
    ground.clear()
    if late:
        ground.execute("INSERT INTO device_latest (device_id, recorded_at, received_at) SELECT id, now(), now() FROM devices")
    start = next_start(ground, count)
    await ground.publish("--count", str(count), "--start", start, "--repeat-every", str(repeat_every))
    before_services = cpu_s(ground, None)
    async with ground.product() as product:
        await product.settled(count)
        connected = product.connected_at()
        after = cpu_s(ground, product.process.pid)
        peak = usage(product.process.pid).peak_bytes
    before_services["factoryd"] = 0.0
    return {
        "rate": count / (ground.last_commit() - connected),
        "peak_mb": peak / 1e6,
        **_per_million(before_services, after, count),
    }


async def drain_null(ground: Ground, count: int) -> Figures:
    """The same queue → null subscriber: what the broker can give."""
    await ground.publish("--count", str(count), "--start", next_start(ground, count))
    subscriber = await ground.null_subscriber(count)
    output, _ = await subscriber.communicate()
    end = json.loads(output)
    return {"rate": count / (end["ended"] - end["connected"]), "cpu_us": end["cpu"] / count * 1e6}


async def raw_copy(ground: Ground) -> Figures:
    """The rows that the run before has stored, by COPY alone."""
    rows = await asyncio.to_thread(yardsticks.stored_rows, ground.owner_url)
    ground.clear()
    seconds = await asyncio.to_thread(yardsticks.raw_copy_s, ground.services.urls.database_url, rows)
    assert ground.execute("SELECT count(*) FROM sensor_readings")[0][0] == len(rows)
    return {"rate": len(rows) / seconds}


async def paced_latency(ground: Ground, rate: float, seconds: float) -> Figures:
    """Publish → commit in ms at a steady rate: from recorded_at, the moment of publishing, to PostgreSQL's commit time."""
    ground.clear()
    async with ground.product():
        await ground.publish("--rate", str(rate), "--seconds", "2")
        ground.clear_readings()
        published = await ground.publish("--rate", str(rate), "--seconds", str(seconds))
    rows = ground.execute("SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - recorded_at) * 1000 FROM sensor_readings")
    assert len(rows) == published.count, f"{len(rows)} of {published.count} readings stored"
    delays = sorted(float(str(row[0])) for row in rows)
    return {"p50_ms": statistics.median(delays), "p99_ms": delays[int(len(delays) * 0.99)]}


async def trips(ground: Ground, rate: float, seconds: float) -> Figures:
    """What no system on this path can avoid, as medians in ms: the message's trip through the broker at the same rate to a
    null subscriber, one write and fdatasync, one round trip to PostgreSQL."""
    subscriber = await ground.null_subscriber(int(rate * seconds), "--timed")
    await ground.publish("--rate", str(rate), "--seconds", str(seconds))
    output, _ = await subscriber.communicate()
    broker = json.loads(output)["delay_s"] * 1000
    fsync = yardsticks.fsync_s(ground.directory) * 1000
    database = yardsticks.round_trip_s(ground.services.urls.database_url) * 1000
    return {"sum_ms": broker + fsync + database, "broker_ms": broker, "fsync_ms": fsync, "database_ms": database}


def cpu_s(ground: Ground, product_pid: int | None) -> Figures:
    """CPU seconds so far, by server and for the daemon."""
    services = ground.services
    assert services.postgres is not None
    assert services.mosquitto is not None
    figures = {"postgres": children_cpu_s(services.postgres.pid), "mosquitto": children_cpu_s(services.mosquitto.pid)}
    if product_pid is not None:
        figures["factoryd"] = usage(product_pid).cpu_s
    return figures


def _per_million(before: Figures, after: Figures, count: int) -> Figures:
    return {f"cpu_s_per_million_{name}": (after[name] - before[name]) / count * 1e6 for name in after}
