"""The daemon is away for an hour while devices go on: the hour is not charged to them."""

from tests.e2e.client import Message
from tests.e2e.conftest import Plant, until
from tests.e2e.updates import OPEN, birth, report, version

DEVICES = 500
HOUR = """
    UPDATE ota_deployments SET dispatched_at = dispatched_at - '1h'::interval, phase_since = phase_since - '1h'::interval,
        last_report_at = last_report_at - '1h'::interval, phase_deadline_at = phase_deadline_at - '1h'::interval,
        attempt_deadline_at = attempt_deadline_at - '1h'::interval, next_action_at = next_action_at - '1h'::interval"""
HEARD = "UPDATE daemon_state SET value = (value::timestamptz - '1h'::interval)::text WHERE key = 'ota_seen_at'"
LEFT = "SELECT min(phase_deadline_at) - now() > '10m'::interval FROM ota_deployments WHERE status = 'in_progress'"


async def test_an_hour_with_five_thousand_reports_waiting(plant: Plant) -> None:
    """Ten reports of each device wait at the broker: half of them succeed, a fifth fails, the others are under way."""
    names = [f"press-{number}" for number in range(DEVICES)]
    await plant.register(*names)
    target = await version(plant, "2.4.1")
    async with plant.client() as client:
        async with plant.running(**OPEN):
            await client.publish(*(birth(name) for name in names))
            await plant.sql("INSERT INTO ota_deployments (device_id, version_id) SELECT id, %s FROM devices", target)
            await plant.until_sql(
                "SELECT count(*) FROM ota_deployments WHERE phase = 'sent' AND publish_pending IS NULL", DEVICES
            )
            rows = await plant.sql("SELECT v.device_id, d.id FROM ota_deployments d JOIN devices v ON v.id = d.device_id")
            numbers = dict(rows)
            await client.publish(*(report(name, number, phase="downloading", seq=1) for name, number in numbers.items()))
            await plant.until_sql("SELECT count(*) FROM ota_deployments WHERE phase = 'downloading'", DEVICES)
        await plant.sql(HOUR)
        await plant.sql(HEARD)
        waiting = [
            message
            for seq in range(2, 12)
            for place, name in enumerate(names)
            for message in [_report(place, name, numbers[name], seq)]
        ]
        assert len(waiting) == 5_000
        await client.publish(*waiting)
        async with plant.running(**OPEN) as running:
            await plant.until_sql("SELECT count(*) FROM ota_deployments WHERE last_seq = 11", DEVICES)
            await until(lambda: running.count("ota_recovery_seconds") >= 3_600)
            assert await plant.value(LEFT), "the hour is given back"
    outcomes = await plant.sql(
        "SELECT status::text, phase, outcome, error_code, progress_percent, count(*) FROM ota_deployments"
        " GROUP BY 1, 2, 3, 4, 5 ORDER BY 6"
    )
    assert outcomes == [
        ("failed", "done", "failed", "flash_write", 90, DEVICES // 5),
        ("in_progress", "verifying", None, None, 100, 3 * DEVICES // 10),
        ("completed", "done", "succeeded", None, 100, DEVICES // 2),
    ]


def _report(place: int, name: str, number: int, seq: int) -> Message:
    if seq == 11 and place % 10 < 5:
        return report(name, number, phase="succeeded", seq=seq, attempt=1, version="2.4.1")
    if seq == 11 and place % 10 < 7:
        return report(name, number, phase="failed", seq=seq, attempt=1, error_code="flash_write")
    phase = "downloading" if seq < 11 else "verifying"
    return report(name, number, phase=phase, seq=seq, attempt=1, progress_percent=min(100, 10 * (seq - 1)))
