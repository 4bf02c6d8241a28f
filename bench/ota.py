"""The measurement of firmware over the air: what ten thousand devices at work cost, and what telemetry loses by them."""

import asyncio
import json

from bench.frames import ota_device
from bench.ground import Ground, Product
from bench.measures import Figures, cpu_s, next_start
from bench.publisher import Published

LIVE = 10_000
EVERY_S = 2.0
ALONE_ROUNDS = 8
BUSY_ROUNDS = 7
MESSAGES = 200_000


async def telemetry_alone(ground: Ground) -> Figures:
    """Live throughput of telemetry while as many deployments are live, and say nothing."""
    begin_deployments(ground)
    async with ground.product() as product:
        rate = await _telemetry(ground, product)
    end_deployments(ground)
    return {"rate": rate}


async def telemetry_beside_reports(ground: Ground) -> Figures:
    """The same while each of them reports every two seconds; and what a report costs without telemetry, in µs of CPU."""
    first = begin_deployments(ground)
    async with ground.product() as product:
        before = cpu_s(ground, product.process.pid)
        published = await _ended(await _reporter(ground, first, ALONE_ROUNDS))
        await _tracked(ground, ALONE_ROUNDS)
        after = cpu_s(ground, product.process.pid)
    costs = {f"report_us_{name}": (after[name] - before[name]) / published.count * 1e6 for name in after}
    first = begin_deployments(ground)
    async with ground.product() as product:
        reporter = await _reporter(ground, first, BUSY_ROUNDS)
        await _tracked(ground, 1)  # all have been heard once, as they have in the hours that an update takes
        rate = await _telemetry(ground, product)
        busy = reporter.returncode is None
        await _ended(reporter)
        lag_s = await _tracked(ground, BUSY_ROUNDS)
    end_deployments(ground)
    assert busy, "the reports ended before the telemetry: more rounds are needed"
    return {"rate": rate, **costs, "tracked_after_s": lag_s}


async def _telemetry(ground: Ground, product: Product) -> float:
    options = ["--count", str(MESSAGES), "--start", next_start(ground, MESSAGES)]
    published, _ = await asyncio.gather(ground.publish(*options), product.settled(MESSAGES))
    return MESSAGES / (ground.last_commit() - published.started)


async def _reporter(ground: Ground, first: int, rounds: int) -> asyncio.subprocess.Process:
    options = ["--first-id", str(first), "--devices", str(LIVE), "--every", str(EVERY_S), "--rounds", str(rounds)]
    return await ground.subscriber("bench.reporter", ground.broker_url, "--root", "factory", *options)


async def _ended(reporter: asyncio.subprocess.Process) -> Published:
    output, _ = await reporter.communicate()
    return Published(**json.loads(output))


async def _tracked(ground: Ground, rounds: int, timeout_s: float = 60) -> float:
    """Waits until the last report of each device is in its row; returns how long that took, in seconds."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    statement = f"SELECT count(*) FROM ota_deployments WHERE last_seq >= {rounds}"
    while int(str((await asyncio.to_thread(ground.execute, statement))[0][0])) < LIVE:
        if loop.time() - begin > timeout_s:
            raise TimeoutError("reports are missing")
        await asyncio.sleep(0.1)
    return loop.time() - begin


def begin_deployments(ground: Ground) -> int:
    """Makes ten thousand devices that download; returns the first deployment's number, the others follow in order."""
    end_deployments(ground)
    ground.clear()
    names = ",".join(f"('{ota_device(number)}','ota','ota','bench','online',now())" for number in range(LIVE))
    ground.execute(f"INSERT INTO devices (device_id, name, type, location, status, last_seen) VALUES {names}")
    version = "INSERT INTO ota_versions (version, firmware_url, status) VALUES ('9.9.9', 'https://files.example/f', 'released')"
    ground.execute(version)
    ground.execute(
        "INSERT INTO ota_deployments (device_id, version_id, status, phase, holds_device, dispatched_at, phase_since,"
        " phase_deadline_at, attempt_deadline_at, next_action_at) SELECT d.id, f.id, 'in_progress', 'downloading', true, now(),"
        " now(), now() + '15m', now() + '4h', now() + '15m' FROM devices d, ota_versions f WHERE d.type = 'ota'"
        " ORDER BY d.device_id"
    )
    ground.execute("VACUUM ANALYZE ota_deployments")
    return int(str(ground.execute("SELECT min(id) FROM ota_deployments")[0][0]))


def end_deployments(ground: Ground) -> None:
    """Forgets them."""
    ground.execute("TRUNCATE ota_deployments, ota_deployment_events, ota_versions, ota_device_state, device_latest CASCADE")
    ground.execute("DELETE FROM devices WHERE type = 'ota'")
