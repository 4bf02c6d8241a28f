"""The whole daemon in one process: what is published is accounted for, whatever is published, and whatever is taken away."""

import asyncio
import json
import time
from collections import Counter
from datetime import datetime
from itertools import count
from zoneinfo import ZoneInfo

import mqtt5
import psycopg

from tests.e2e.client import Message
from tests.e2e.conftest import ROOT, Plant, Running, at, dated, status, telemetry, until

KEPT_PER_HOUR = 20
TAKES_EFFECT_S = 1.0


BERLIN = ZoneInfo("Europe/Berlin")


def _moment(seconds: float) -> datetime:
    return datetime.fromisoformat(at(seconds))


def body(**values: object) -> bytes:
    return json.dumps(values).encode()


async def test_from_the_message_to_the_row(plant: Plant) -> None:
    """A reading is a row, a birth makes online, who is unknown is kept and told, and stored once registered."""
    await plant.register("walk-1")
    async with plant.client() as client, plant.client() as device, plant.running() as running:
        await device.subscribe(f"{ROOT}/devices/walk-2/rejected")
        await client.publish(*telemetry("walk-1", body(recorded_at=at(0), temperature=21.5)))
        await running.until_settled(1)
        assert await plant.sql("SELECT temperature, recorded_at FROM sensor_readings") == [(21.5, _moment(0))]

        await client.publish(status("walk-1", b'{"status":"online","version":"1.2"}'))
        await plant.until_sql("SELECT status::text || ' ' || reported_version FROM devices", "online 1.2")
        await client.publish(status("walk-1", b""))

        await client.publish(*telemetry("walk-2", body(recorded_at=at(1), rpm=3)))
        notice = json.loads((await device.read(mqtt5.PublishPacket)).payload)
        assert (notice["reason"], notice["topic"]) == ("unknown_device", f"{ROOT}/devices/walk-2/telemetry")
        await plant.register("walk-2")
        await plant.sql("UPDATE quarantine SET replay_requested_at = now()")
        await running.until_settled(3)
        assert (await plant.rows(), await plant.quarantined()) == (2, 0)


async def test_everything_received_is_accounted_for(plant: Plant) -> None:
    """received = stored + merged + duplicate + quarantined + returned + in flight: exactly, and as the database has it."""
    await plant.register("mix-1", "mix-2", "mix-3", "flood-1")
    load, expected = _mixed_load()
    async with plant.client() as client, plant.running(ingest={"quarantine_per_device_hour": KEPT_PER_HOUR}) as running:
        for messages in load:
            await client.publish(*messages)
        await running.until_settled(expected.total())
        assert running.verdicts() == expected
        await _agrees_with_database(plant, running)

        strange = await plant.quarantined("device = 'stranger-1'")
        await plant.register("stranger-1")
        await plant.sql("UPDATE quarantine SET replay_requested_at = now() WHERE device = 'stranger-1'")
        await running.until_settled(expected.total() + strange)
        assert running.verdicts() == expected + Counter(stored=strange)
        await _agrees_with_database(plant, running, replayed=strange)
        await client.publish(*telemetry("mix-3", b"", retain=True))  # cleared: an empty message, and quarantined as one
        await running.until_settled(expected.total() + strange + 1)


def _mixed_load() -> tuple[list[list[Message]], Counter[str]]:
    """Returns messages in groups, and what must become of their readings."""
    good = list(dated(60))
    more = [b'{"recorded_at":"%s","humidity":1}' % at(n * 0.01).encode() for n in range(5)]
    others = [b'{"recorded_at":"%s","rpm":-7}' % at(n * 0.01).encode() for n in range(10, 14)]
    sequenced = [body(temperature=n, seq=n, boot_id="b") for n in (1, 2, 2, 3, 1)]
    array = b'[{"rpm":1},{"rpm":"x"},{"rpm":2,"humidity":4},{},{"temperature":3},{"oil":0.5}]'
    stranger = [*dated(3), body(recorded_at=at(9), rpm=1), b'[{"ts":%d,"rpm":1},{"rpm":2,"recorded_at":"%s"}]' % _times()]
    load = [
        telemetry("mix-1", *good),
        telemetry("mix-1", *good[20:30], *more, *others, good[59], good[59]),
        telemetry("mix-2", *sequenced, array, array, b"{", b"", b"[]", b'{"rpm":1e999}'),
        telemetry("mix-2", *(body(humidity=n) for n in range(5)), qos=0),
        telemetry("mix-3", body(recorded_at=at(2), rpm=5), retain=True),
        telemetry("stranger-1", *stranger),
        telemetry("flood-1", *[b"{"] * 30, *[b'{"rpm":"fast"}'] * 20, *dated(5)),
        telemetry("not good", body(rpm=1)),
    ]
    stored = {"dated": 60, "sequenced": 3, "arrays": 8, "qos 0": 5, "retained": 1, "flooding": 5}
    refused = {"conflicts": 4, "array elements": 4, "malformed": 4, "strangers": 6, "flood": 50, "bad id": 1}
    verdicts = {"stored": sum(stored.values()), "merged": len(more), "duplicate": 10 + 2 + 2, "returned": 0}
    return load, Counter({**verdicts, "quarantined": sum(refused.values())})


def _times() -> tuple[int, bytes]:
    return int(_moment(20).timestamp() * 1000), at(21).encode()


async def _agrees_with_database(plant: Plant, running: Running, replayed: int = 0) -> None:
    verdicts = running.verdicts()
    assert await plant.rows() == verdicts["stored"]
    assert await plant.value("SELECT count(*) FROM sensor_readings WHERE num_nonnulls(rpm, humidity) = 2") == 7
    assert await plant.quarantined() == verdicts["quarantined"] - replayed
    assert await plant.quarantined("flood_hour IS NOT NULL") == running.count("ingest_quarantine_flooded_total")
    for reason, number in await plant.sql(
        "SELECT reason, sum(repeats)::int FROM quarantine WHERE reason <> 'unknown_device' GROUP BY 1"
    ):
        assert running.count("ingest_quarantined_total", reason=reason) == number, reason


async def test_the_writers_connection_is_killed(plant: Plant) -> None:
    """In the middle of a commit: what was in flight is returned, comes again, and is stored once."""
    await plant.register("kill-1")
    readings = list(dated(300))
    async with plant.client() as client, plant.running() as running:
        await client.publish(*telemetry("kill-1", *readings[:100]))
        await running.until_settled(100)
        async with await psycopg.AsyncConnection.connect(plant.database.admin_url) as lock:
            await lock.execute("LOCK TABLE sensor_readings")
            await client.publish(*telemetry("kill-1", *readings[100:200]))
            await until(lambda: running.count("ingest_readings_in_flight") == 100)
            await plant.until_sql(f"SELECT count(*) FROM pg_stat_activity WHERE {WRITER} AND wait_event_type = 'Lock'", 1)
            await plant.sql(KILL)
            await until(lambda: running.verdicts()["returned"] == 100, running.verdicts)
        assert running.received == 200
        await client.publish(*telemetry("kill-1", *readings[200:]))
        await running.until_ready()
        await running.until_settled(400)
        assert running.verdicts() == Counter(stored=300, merged=0, duplicate=0, quarantined=0, returned=100)
        assert await plant.rows() == 300


WRITER = "application_name = 'factoryd writer' AND datname = current_database()"
KILL = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {WRITER}"


async def test_the_writers_connection_is_killed_again_and_again_under_load(plant: Plant) -> None:
    """At any moment of a transaction, a COMMIT under way included: each reading has its row, and the books are right."""
    await plant.register("kill-2")
    async with plant.client() as client, plant.running() as running, asyncio.TaskGroup() as group:
        publishing = group.create_task(client.publish(*telemetry("kill-2", *dated(6_000))))
        for target in (500, 2_000, 3_500):
            await until(lambda least=target: running.received >= least)  # type: ignore[misc]
            await plant.sql(KILL)
            await until(lambda: not running.ready)
            await running.until_ready()
        await publishing
        await plant.until_sql("SELECT count(*) FROM sensor_readings", 6_000)
        await running.until_settled(6_000 + running.verdicts()["returned"])
        verdicts = running.verdicts()
        assert verdicts["stored"] + verdicts["duplicate"] == 6_000
        assert await plant.rows() == 6_000


async def test_changes_by_plain_sql_take_effect_within_a_second(plant: Plant) -> None:
    await plant.register("edit-1")
    numbers = count()
    local = body(recorded_at=_moment(0).astimezone(BERLIN).replace(tzinfo=None).isoformat(), temperature=4)
    async with plant.client() as client, plant.running() as running:

        async def becomes(verdict: str, payload: bytes | None = None) -> None:
            """Publishes until the verdict is another."""
            deadline = time.monotonic() + TAKES_EFFECT_S
            while True:
                before, received = running.verdicts(), running.received
                await client.publish(*telemetry("edit-1", *([payload] if payload else dated(1, next(numbers)))))
                await running.until_settled(received + 1)
                if running.verdicts()[verdict] > before[verdict]:
                    return
                assert time.monotonic() < deadline, f"nothing {verdict} after {TAKES_EFFECT_S:g} s"

        await becomes("quarantined", local)
        await plant.sql("UPDATE devices SET timezone = 'Europe/Berlin'")
        await becomes("stored", local)
        assert await plant.value("SELECT recorded_at FROM sensor_readings WHERE temperature = 4") == _moment(0)
        await plant.sql("UPDATE devices SET retired_at = now()")
        await becomes("quarantined")
        assert await plant.quarantined("reason = 'retired_device'") == 1
        await plant.sql("UPDATE devices SET retired_at = NULL")
        await becomes("stored")
