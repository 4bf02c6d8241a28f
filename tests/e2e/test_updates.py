"""Firmware by the whole daemon, on a real broker: sent, tracked, retried, cancelled, remembered."""

import pytest

from tests.e2e.conftest import Plant, until
from tests.e2e.updates import (
    OPEN,
    QUICK,
    birth,
    commands,
    deployment,
    report,
    stands,
    state,
    until_outcome,
    until_phase,
    version,
)


async def test_a_version_and_a_deployment_by_plain_sql_are_noticed_and_tracked(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN):
        await client.publish(birth("press-1"))
        number = await deployment(plant, "press-1", await version(plant, "2.4.1"))
        (command,) = await sent.until(1)
        assert command["topic"] == "factory/devices/press-1/ota/command"
        assert (command["type"], command["deployment_id"], command["attempt"]) == ("update", number, 1)
        assert (command["version"], command["firmware_url"]) == ("2.4.1", "https://files.example/2.4.1.bin")
        await until_phase(plant, number, "sent")
        await plant.until_sql("SELECT count(*) FROM ota_deployments WHERE publish_pending IS NOT NULL", 0)
        await client.publish(report("press-1", number, status="in_progress", progress_percent=10))
        await until_phase(plant, number, "downloading")
        await client.publish(report("press-1", number, status="in_progress", progress_percent=70))
        await client.publish(report("press-1", number, status="in_progress", progress_percent=60))
        await client.publish(report("press-1", number, status="completed", progress_percent=100))
        await until_outcome(plant, number, "succeeded")
        assert await stands(plant, number) == ("completed", "done", "succeeded", 100, None)
    assert sent.retained == 0
    assert len(sent.heard) == 1
    words = await plant.sql("SELECT kind, verdict FROM ota_deployment_events ORDER BY id")
    assert words[0] == ("dispatch", "sent")
    assert words[-1] == ("report", "accepted")


async def test_an_unsigned_version_waits(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running() as running:
        await client.publish(birth("press-1"))
        number = await deployment(plant, "press-1", await version(plant, "2.4.1"))
        await plant.until_sql("SELECT count(*) FROM devices WHERE status = 'online'", 1)
        await plant.until_sql("SELECT count(*) FROM daemon_state WHERE key = 'ota_seen_at'", 1)
        await until_phase(plant, number, "queued")
        assert running.count("ota_versions_refused", reason="unsigned") == 1
        assert running.count("ota_allow_unsigned") == 0
    assert sent.heard == []


async def test_an_offline_device_is_sent_it_when_it_appears(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN):
        number = await deployment(plant, "press-1", await version(plant, "2.4.1"))
        await plant.until_sql("SELECT count(*) FROM daemon_state WHERE key = 'ota_seen_at'", 1)
        assert sent.heard == []
        await client.publish(state("press-1", version="2.4.0", hardware="gw/c", boot_id="a"))
        (command,) = await sent.until(1)
        assert command["deployment_id"] == number
        assert await plant.value("SELECT from_version FROM ota_deployments") == "2.4.0"
        await client.publish(report("press-1", number, phase="installing"))
        await until_phase(plant, number, "installing")
        await client.publish(state("press-1", version="2.4.1", hardware="gw/c", boot_id="b"))
        await until_outcome(plant, number, "succeeded")
    assert await plant.sql("SELECT version, previous_version, hardware FROM ota_device_state") == [("2.4.1", "2.4.0", "gw/c")]


async def test_after_a_start_firmware_does_not_wait_for_the_interval_of_presence(plant: Plant) -> None:
    await plant.register("press-1")
    settings = {**OPEN, "presence": {"write_interval_s": 60}}
    async with commands(plant) as sent, plant.client() as client, plant.running(**settings):
        await client.publish(state("press-1", version="2.4.1", boot_id="a"))
        await deployment(plant, "press-1", await version(plant, "2.5.0"))
        await plant.until_sql("SELECT count(*) FROM daemon_state WHERE key = 'ota_seen_at'", 1)
    assert sent.retained == 0


async def test_success_report_lost_only_the_hello_arrives(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN):
        await client.publish(state("press-1", version="1.0.0", boot_id="a"))
        number = await deployment(plant, "press-1", await version(plant, "2.0.0"), verify_mode="version")
        await sent.until(1)
        await client.publish(report("press-1", number, phase="rebooting", attempt=1, seq=9))
        await until_phase(plant, number, "rebooting")
        await client.publish(state("press-1", version="2.0.0", boot_id="b"))
        await until_outcome(plant, number, "succeeded")
        assert await plant.value("SELECT verified_at IS NOT NULL FROM ota_deployments")


async def test_hundred_per_cent_but_old_version(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN) as running:
        await client.publish(state("press-1", version="1.0.0", boot_id="a"))
        number = await deployment(plant, "press-1", await version(plant, "2.0.0"), verify_mode="version")
        await sent.until(1)
        await client.publish(report("press-1", number, status="completed", progress_percent=100))
        await until_phase(plant, number, "confirming")
        assert (await stands(plant, number))[0] == "in_progress"
        await client.publish(report("press-1", number, status="completed", progress_percent=100, version="1.0.0"))
        await until_outcome(plant, number, "version_mismatch")
        assert running.count("ota_outcomes_total", outcome="version_mismatch") == 1


async def test_a_retryable_failure_is_tried_again_and_a_final_one_is_not(plant: Plant) -> None:
    await plant.register("press-1", "press-2")
    async with commands(plant) as sent, plant.client() as client, plant.running(**QUICK) as running:
        await client.publish(birth("press-1"), birth("press-2"))
        target = await version(plant, "2.4.1")
        first = await deployment(plant, "press-1", target)
        await sent.until(1)
        await client.publish(report("press-1", first, status="failed", error_code="network", error_message="no route"))
        again = (await sent.until(2))[1]
        assert (again["deployment_id"], again["attempt"]) == (first, 2)
        await client.publish(report("press-1", first, status="completed", attempt=1))  # of the attempt that is over
        await client.publish(report("press-1", first, status="completed", attempt=2))
        await until_outcome(plant, first, "succeeded")
        second = await deployment(plant, "press-2", target)
        await sent.until(3)
        await client.publish(report("press-2", second, status="failed", error_code="flash_write", error_message="worn out"))
        await until_outcome(plant, second, "failed")
        assert await stands(plant, second) == ("failed", "done", "failed", 0, "flash_write")
        assert running.count("ota_retries_total", error_code="network") == 1
        assert running.count("ota_failures_total", error_code="network") == 0
        assert running.count("ota_failures_total", error_code="flash_write") == 1


async def test_a_newer_deployment_takes_the_place_of_one_that_has_not_begun(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN):
        await client.publish(birth("press-1"))
        old = await deployment(plant, "press-1", await version(plant, "2.4.1"))
        await sent.until(1)
        new = await deployment(plant, "press-1", await version(plant, "2.5.0"))
        told = await sent.until(3)
        assert [(each["type"], each["deployment_id"]) for each in told[1:]] == [("cancel", old), ("update", new)]
        await until_outcome(plant, old, "superseded")
        assert await plant.value("SELECT count(*) FROM ota_deployments WHERE holds_device") == 1


async def test_cancel_and_the_answer_is_lost(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**QUICK):
        await client.publish(birth("press-1"))
        number = await deployment(plant, "press-1", await version(plant, "2.4.1"))
        await sent.until(1)
        await client.publish(report("press-1", number, status="in_progress", progress_percent=5))
        await until_phase(plant, number, "downloading")
        await plant.sql("UPDATE ota_deployments SET cancel_requested_at = now(), cancel_reason = 'wrong line'")
        told = await sent.until(2)
        assert (told[1]["type"], told[1]["deployment_id"], told[1]["reason"]) == ("cancel", number, "wrong line")
        await until_outcome(plant, number, "cancelled")


async def test_online_and_no_answer(plant: Plant) -> None:
    await plant.register("press-1")
    settings = {"ota": {"allow_unsigned": True, "ack_s": 0.2, "max_resends": 2}}
    async with commands(plant) as sent, plant.client() as client, plant.running(**settings) as running:
        await client.publish(birth("press-1"))
        number = await deployment(plant, "press-1", await version(plant, "2.4.1"))
        await until_outcome(plant, number, "timed_out")
        told = await sent.until(4)
        assert [(each["type"], each["attempt"]) for each in told] == [("update", 1)] * 3 + [("cancel", 1)]
        assert (await stands(plant, number))[-1] == "no_ack"
        assert running.count("ota_timeouts_total", kind="no_ack") == 1
        await client.publish(report("press-1", number, status="completed"))
        await until_outcome(plant, number, "late_success")


async def test_a_restored_older_database_gives_future_attempt(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN) as running:
        await client.publish(birth("press-1"))
        number = await deployment(plant, "press-1", await version(plant, "2.4.1"))
        await sent.until(1)
        await client.publish(report("press-1", number, phase="downloading", attempt=4, seq=3))
        again = (await sent.until(2))[1]
        assert (again["deployment_id"], again["attempt"]) == (number, 5)
        assert running.count("ota_reports_total", verdict="future_attempt") == 1


async def test_url_expires_while_deferred(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh URL by the same command: the same attempt, and none is used up."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    await plant.register("press-1")
    settings = {"ota": {"allow_unsigned": True, "artifact_url": "s3://plant/fw", "s3_endpoint_url": "https://s3.example"}}
    async with commands(plant) as sent, plant.client() as client, plant.running(**settings):
        await client.publish(birth("press-1"))
        number = await deployment(plant, "press-1", await version(plant, "2.4.1", firmware_url="s3://plant/fw/2.4.1.bin"))
        first = (await sent.until(1))[0]
        assert first["firmware_url"].startswith("https://s3.example/plant/fw/2.4.1.bin?X-Amz-Algorithm=")
        await client.publish(report("press-1", number, phase="deferred", retry_after_s=3600))
        await until_phase(plant, number, "deferred")
        await client.publish(report("press-1", number, phase="failed", error_code="url_expired"))
        again = (await sent.until(2))[1]
        assert (again["deployment_id"], again["attempt"]) == (number, 1)
        assert again["url_expires_at"] >= first["url_expires_at"]
        await client.publish(report("press-1", number, phase="succeeded"))
        await until_outcome(plant, number, "succeeded")
        assert await plant.value("SELECT attempt FROM ota_deployments") == 1


async def test_nothing_is_lost_over_a_restart(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client:
        async with plant.running(**OPEN):
            await client.publish(birth("press-1"))
            number = await deployment(plant, "press-1", await version(plant, "2.4.1"))
            await sent.until(1)
        await client.publish(report("press-1", number, status="in_progress", progress_percent=40))
        await client.publish(report("press-1", number, status="completed"))
        async with plant.running(**OPEN):
            await until_outcome(plant, number, "succeeded")
    assert len(sent.heard) == 1


async def test_work_on_a_deployment_that_nobody_knows_is_stopped(plant: Plant) -> None:
    await plant.register("press-1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN):
        active = {"deployment_id": 987, "attempt": 3, "phase": "downloading"}
        await client.publish(state("press-1", retain=False, version="1.0.0", boot_id="a", active=active))
        (command,) = await sent.until(1)
        assert (command["type"], command["deployment_id"], command["attempt"]) == ("cancel", 987, 3)


@pytest.mark.parametrize(
    ("payload", "verdict"),
    [
        (b"\xff\xfe", "malformed"),
        (b'{"deployment_id": 1}', "malformed"),
        (b'{"deployment_id": 4711, "status": "completed"}', "unknown_deployment"),
    ],
)
async def test_every_report_has_a_verdict(plant: Plant, payload: bytes, verdict: str) -> None:
    await plant.register("press-1")
    async with plant.client() as client, plant.running(**OPEN) as running:
        message = report("press-1", 1, status="pending")._replace(payload=payload)
        stranger = message._replace(topic="factory/devices/nobody/ota/progress")
        await client.publish(message, stranger, birth("press-1"))
        await until(lambda: running.count("ota_reports_total", verdict=verdict) >= 1)
        await until(lambda: running.count("ota_reports_total", verdict="unknown_device") >= 1 or verdict == "malformed")
