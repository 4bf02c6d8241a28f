"""The measurements of alerting: how long from the crossing to the operator, what a storm does, what evaluation costs."""

import asyncio
import json
import statistics
import time

from bench import yardsticks
from bench.frames import DEVICES, storm_device
from bench.ground import Ground, usage
from bench.measures import Figures, cpu_s, drain_product, trips

COPRIME = 51
"""Every so many messages one is beyond the limit: each device in its turn, and back at its next message."""
STORM = 10_000
THRESHOLDS = 50_000
STARTED_S = 2.0
"""After its connect the daemon has some work left that is done once."""


def set_thresholds(ground: Ground, rows: str) -> None:
    """Replaces all thresholds; `rows`: a select of device id, metric, min, max."""
    ground.execute("TRUNCATE alerts, alert_thresholds, rule_state, alert_history, alert_outbox, late_windows CASCADE")
    ground.execute(
        "INSERT INTO alert_thresholds (device_id, user_id, metric_type, min_value, max_value, severity)"
        f" SELECT r.*, 'warning' FROM (SELECT d.id, u.id, m, low, high FROM users u, ({rows}) AS r (d, m, low, high)"
        " JOIN devices d ON d.id = r.d WHERE u.login = 'system') AS r"
    )
    ground.execute("ANALYZE alert_thresholds")


EVERY_METRIC = (
    "SELECT id, m, -1e6, 1e6 FROM devices,"
    " unnest('{temperature,humidity,pressure,vibration,power_consumption,rpm}'::text[]) AS m"
)
NO_LIMIT = "SELECT id, 'temperature', 0.0, 0.0 FROM devices WHERE false"
ONE_LIMIT = "SELECT id, 'temperature', NULL::float8, 90.0 FROM devices"


async def _ear(ground: Ground, count: int) -> asyncio.subprocess.Process:
    return await ground.subscriber("bench.alert_subscriber", ground.broker_url, "--root", "factory", "--count", str(count))


async def alert_latency(ground: Ground, rate: float, seconds: float) -> Figures:
    """From recorded_at, the moment before the send, to the event at a subscriber in a process of its own, in ms.

    `sum_ms`: publish → commit of the readings of this very run, p99, and the trip of a message through the broker.
    """
    ground.clear()
    set_thresholds(ground, ONE_LIMIT)
    count = int(rate * seconds)
    expected = len(range(0, count, COPRIME))
    async with ground.product():
        await ground.publish("--rate", str(rate), "--seconds", "2")
        ground.clear_readings()
        ear = await _ear(ground, expected)
        published = await ground.publish("--rate", str(rate), "--seconds", str(seconds), "--cross-every", str(COPRIME))
        output, _ = await ear.communicate()
    assert published.count == count
    delays = sorted(delay * 1000 for delay, _ in json.loads(output))
    commits = commit_delays(ground)
    trip = await trips(ground, rate, 4)
    set_thresholds(ground, NO_LIMIT)
    commit_p99 = commits[int(len(commits) * 0.99)]
    return {
        "alerts": float(len(delays)),
        "p50_ms": statistics.median(delays),
        "p99_ms": delays[int(len(delays) * 0.99)],
        "commit_p50_ms": statistics.median(commits),
        "commit_p99_ms": commit_p99,
        "trip_ms": trip["broker_ms"],
        "sum_ms": commit_p99 + trip["broker_ms"],
    }


async def storm(ground: Ground, rate: float, every: int) -> Figures:
    """10,000 devices cross their limit one after the other, by every so many messages of a steady rate: until all are
    published, and what ingest makes of it meanwhile."""
    ground.clear()
    names = ",".join(f"('{storm_device(number)}','storm','storm','bench')" for number in range(STORM))
    ground.execute(f"INSERT INTO devices (device_id, name, type, location) VALUES {names} ON CONFLICT DO NOTHING")
    set_thresholds(ground, ONE_LIMIT)
    async with ground.product() as product:
        before_s, storm_s, after_s = 4.0, STORM * every / rate, 4.0
        calm_s = str(STORM / rate)
        await ground.publish("--rate", str(rate), "--seconds", calm_s, "--storm-for", calm_s, "--calm")
        ground.clear_readings()
        ear = await _ear(ground, STORM)
        started = time.time()
        options = ["--seconds", str(before_s + storm_s + after_s), "--storm-from", str(before_s), "--storm-for", str(storm_s)]
        options += ["--storm-every", str(every)]
        cpu = cpu_s(ground, product.process.pid)
        published = await ground.publish("--rate", str(rate), *options)
        output, _ = await ear.communicate()
        cpu = {f"cpu_s_{name}": spent - cpu[name] for name, spent in cpu_s(ground, product.process.pid).items()}
    heard = json.loads(output)
    begin, end = published.started + before_s, max(moment for _, moment in heard)
    before = commit_delays(ground, f"recorded_at < to_timestamp({begin})")
    during = commit_delays(ground, f"recorded_at BETWEEN to_timestamp({begin}) AND to_timestamp({end})")
    set_thresholds(ground, NO_LIMIT)
    ground.execute("TRUNCATE sensor_readings, device_latest")
    ground.execute("DELETE FROM devices WHERE type = 'storm'")
    assert started < begin
    return {
        "alerts": float(len(heard)),
        "all_published_s": end - begin,
        "alert_p99_ms": sorted(delay for delay, _ in heard)[int(len(heard) * 0.99)] * 1000,
        "before_p99_ms": before[int(len(before) * 0.99)],
        "during_p99_ms": during[int(len(during) * 0.99)],
        **cpu,
    }


def commit_delays(ground: Ground, condition: str = "true") -> list[float]:
    """Returns publish → commit of stored readings in ms, rising."""
    rows = ground.execute(
        "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - recorded_at) * 1000 AS ms FROM sensor_readings"
        f" WHERE {condition} ORDER BY ms"
    )
    return [float(str(row[0])) for row in rows]


async def drain_cpu(ground: Ground, count: int, rows: str) -> Figures:
    """A drain while these thresholds are watched: CPU of the daemon in µs per message, less what its start alone takes."""
    set_thresholds(ground, rows)
    async with ground.product():
        pass  # new thresholds are held against the last known values, once
    async with ground.product() as product:
        await asyncio.sleep(STARTED_S)
        start_s = usage(product.process.pid).cpu_s
    figures = await drain_product(ground, count)
    set_thresholds(ground, NO_LIMIT)
    per_message_us = figures["cpu_s_per_million_factoryd"] - start_s / count * 1e6
    return {"rate": figures["rate"], "start_cpu_s": start_s, "cpu_us": per_message_us}


async def load_thresholds(ground: Ground) -> Figures:
    """50,000 thresholds: loaded at start, and in effect after one of them has changed while readings come in."""
    ground.clear()
    per_device = THRESHOLDS // DEVICES
    set_thresholds(ground, f"SELECT id, 'm' || n, NULL::float8, 90.0 FROM devices, generate_series(1, {per_device}) AS n")
    async with ground.product():
        pass  # new thresholds are held against the last known values, once
    async with ground.product() as product:
        loaded = next(float(event["seconds"]) for event in product.events() if event["event"] == "alerting_loaded")
        publishing = asyncio.create_task(ground.publish("--rate", "5000", "--seconds", "6"))
        await asyncio.sleep(2)
        ear, changed = await _ear(ground, 1), time.time()
        ground.execute("UPDATE alert_thresholds SET metric_type = 'rpm' WHERE id = (SELECT max(id) FROM alert_thresholds)")
        output, _ = await ear.communicate()
        await publishing
    heard = json.loads(output)
    commits = commit_delays(ground, f"recorded_at > to_timestamp({changed})")
    set_thresholds(ground, NO_LIMIT)
    round_trip_ms = yardsticks.round_trip_s(ground.services.urls.database_url) * 1000
    return {
        "load_s": loaded,
        "in_effect_s": heard[0][1] - changed,
        "ingest_p99_ms": commits[int(len(commits) * 0.99)],
        "round_trip_ms": round_trip_ms,
    }
