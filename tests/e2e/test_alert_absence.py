"""Silence: a device that is offline, a gateway with its children, a metric that no longer comes; and our own blindness."""

from datetime import UTC, datetime, timedelta

from factoryd.embedded.directory import free_port
from tests.e2e.alarms import listening, reading, threshold
from tests.e2e.conftest import Plant, status, telemetry

QUICK = {"alerting": {"offline_delay_s": 0.5}, "presence": {"write_interval_s": 0.1}}


async def test_offline_and_back(plant: Plant) -> None:
    await plant.register("press-1")
    async with listening(plant) as ears, plant.client() as client, plant.running(**QUICK):
        await client.publish(status("press-1", b"online"))
        await plant.until_sql("SELECT status::text FROM devices", "online")
        await client.publish(status("press-1", b"offline"))
        (gone,) = await ears.until(1)
        assert (gone.topic, gone.body["metric"], gone.body["kind"]) == ("alert-events/warning/press-1", "_offline", "offline")
        assert ears.standing["alerts/press-1/_offline/0"]["status"] == "active"
        await client.publish(status("press-1", b"online"))
        assert (await ears.until(2))[-1].body["status"] == "resolved"


async def test_a_short_reconnect_pages_nobody(plant: Plant) -> None:
    await plant.register("press-2", "press-3")
    async with listening(plant) as ears, plant.client() as client, plant.running(**QUICK):
        await client.publish(status("press-2", b"online"), status("press-3", b"online"))
        await plant.until_sql("SELECT count(*) FROM devices WHERE status = 'online'", 2)
        await client.publish(status("press-2", b"offline"), status("press-2", b"online"), status("press-3", b"offline"))
        (gone,) = await ears.until(1)
        assert gone.body["device"] == "press-3"


async def test_one_alert_for_a_gateway_and_none_for_its_children(plant: Plant) -> None:
    await plant.register("gw-1", "plc-1", "plc-2")
    await plant.sql("UPDATE devices SET via_id = (SELECT id FROM devices WHERE device_id = 'gw-1') WHERE device_id LIKE 'plc%'")
    async with listening(plant) as ears, plant.client() as client, plant.running(**QUICK):
        await client.publish(*(status(name, b"online") for name in ("gw-1", "plc-1", "plc-2")))
        await plant.until_sql("SELECT count(*) FROM devices WHERE status = 'online'", 3)
        await client.publish(status("gw-1", b"offline"))
        (gone,) = await ears.until(1)
        assert gone.body["device"] == "gw-1"
        await plant.until_sql("SELECT count(*) FROM devices WHERE status = 'offline'", 3)
        await client.publish(*(status(name, b"online") for name in ("plc-1", "plc-2", "gw-1")))
        assert (await ears.until(2))[-1].body["status"] == "resolved"
    assert await plant.value("SELECT count(*) FROM alerts") == 1


async def test_a_metric_that_no_longer_comes(plant: Plant) -> None:
    await plant.register("press-4")
    number = await threshold(plant, "press-4", max_value=80, no_data_seconds=1.5, severity="critical")
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(*telemetry("press-4", reading(90.0)))
        (raised,) = await ears.until(1)
        assert raised.body["metric"] == "temperature"
        silent = (await ears.until(2))[-1].body
        assert (silent["metric"], silent["kind"], silent["severity"]) == ("_no_data", "no_data", "critical")
        topic = f"alerts/press-4/temperature/{number}"
        await ears.until_true(lambda: ears.standing[topic]["stale"])
        assert ears.standing[topic]["status"] == "active", "silence resolves nothing"
        await client.publish(*telemetry("press-4", reading(91.0)))
        await ears.until_true(lambda: ears.standing["alerts/press-4/_no_data/0"]["status"] == "resolved")
        await ears.until_true(lambda: not ears.standing[topic]["stale"])
        assert ears.standing[topic]["status"] == "active"


async def test_a_daemon_without_its_database_says_so_and_judges_no_silence(plant: Plant) -> None:
    url = f"postgresql://factoryd@127.0.0.1:{free_port()}/factory"
    async with listening(plant) as ears, plant.begun(database={"url": url, "owner_url": None}) as running:
        await ears.until_true(lambda: ears.standing.get("daemon/main", {}).get("status") == "blind", within_s=10)
        assert ears.standing["daemon/main"]["cause"] == "database"
        assert running.count("blind", cause="database") == 1


async def test_while_blind_nobody_goes_offline(plant: Plant) -> None:
    """The database is away for longer than a device may be silent: its time begins anew, and only then runs out."""
    await plant.register("press-5")
    await plant.sql("UPDATE devices SET interval_s = 0.5")
    name = await plant.value("SELECT current_database()")
    async with listening(plant) as ears, plant.client() as client, plant.running(**QUICK):
        await client.publish(status("press-5", b"online"))
        await plant.until_sql("SELECT status::text FROM devices", "online")
        await plant.sql(f"ALTER DATABASE {name} CONNECTION LIMIT 0")  # a superuser is exempt
        await plant.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename <> 'postgres'"
        )
        await ears.until_true(lambda: ears.standing["daemon/main"]["status"] == "blind", within_s=10)
        assert ears.standing["daemon/main"]["cause"] == "database"
        assert ears.events() == []
        await plant.sql(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        await ears.until_true(lambda: ears.standing["daemon/main"]["status"] == "online")
        back = datetime.now(UTC)
        (gone,) = await ears.until(1)
        due = back + timedelta(seconds=1.5)  # three intervals
        assert datetime.fromisoformat(gone.body["triggered_at"]) > due


async def test_nobody_listens_any_more(plant: Plant) -> None:
    await plant.register("press-6")
    await threshold(plant, "press-6", no_data_seconds=0.5)
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(*telemetry("press-6", reading(70.0)))
        await ears.until(1)
        await plant.sql("UPDATE alert_thresholds SET no_data_seconds = NULL, max_value = 80")
        assert (await ears.until(2))[-1].body["status"] == "resolved"
