"""Notices to devices: how many at most, and that nobody waits for them."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry

from config.settings import IngestSettings
from ingest.notices import MAX_WAITING, NoticeMetrics, Notices, Pace
from ingest.reading import Quarantined, Reason

START = datetime(2026, 5, 20, 12, tzinfo=UTC)


def refused(device: str | None, reason: Reason = Reason.BAD_TYPE) -> Quarantined:
    return Quarantined(START, f"factory/devices/{device}/telemetry", device, reason, "rpm is text", b"{}", None, 1)


def test_one_in_an_interval_then_the_count_of_those_held_back() -> None:
    pace = Pace(10)
    admitted = [pace.admit("a", START + timedelta(seconds=second)) for second in (0, 1, 9.9, 10, 11, 20, 30)]
    assert admitted == [0, None, None, 2, None, 1, 0]


def test_devices_do_not_share_an_interval() -> None:
    pace = Pace(10)
    assert [pace.admit(name, START) for name in "aba"] == [0, 0, None]


def test_a_clock_that_steps_back_silences_nobody() -> None:
    pace = Pace(10)
    assert [pace.admit("a", START), pace.admit("a", START - timedelta(hours=1))] == [0, 0]


def test_memory_is_bounded_and_who_is_forgotten_begins_anew() -> None:
    pace = Pace(10, max_names=2)
    assert [pace.admit(name, START) for name in "aabca"] == [0, None, 0, 0, 0]
    assert len(pace._last) == 2


class Desk:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, object]]] = []
        self.away = False
        self.done = asyncio.Event()
        self.registry = CollectorRegistry()
        self.notices = Notices(IngestSettings(), "factory", self.publish, lambda: START, NoticeMetrics(self.registry))

    async def publish(self, topic: str, payload: bytes) -> None:
        self.done.set()
        if self.away:
            raise ConnectionError("away")
        self.sent.append((topic, json.loads(payload)))

    async def run(self) -> None:
        task = asyncio.create_task(self.notices.run())
        async with asyncio.timeout(5):
            await self.done.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def counted(self, outcome: str) -> float | None:
        return self.registry.get_sample_value("factoryd_ingest_notices_total", {"outcome": outcome})


async def test_a_notice_says_what_when_and_where() -> None:
    desk = Desk()
    desk.notices.note([refused("press-1"), refused("press-1"), refused(None), refused("a/b")])
    await desk.run()
    body = {"reason": "bad_type", "detail": "rpm is text", "topic": "factory/devices/press-1/telemetry", "suppressed": 0}
    assert desk.sent == [("factory/devices/press-1/rejected", body | {"received_at": "2026-05-20T12:00:00Z"})]
    assert [desk.counted(outcome) for outcome in ("sent", "suppressed", "dropped", "failed")] == [1, 1, 0, 0]


async def test_without_a_broker_notices_are_dropped_and_counted() -> None:
    desk = Desk()
    desk.away = True
    desk.notices.note([refused("press-1")])
    await desk.run()
    assert (desk.sent, desk.counted("failed")) == ([], 1)


async def test_a_full_queue_drops_and_never_blocks() -> None:
    desk = Desk()
    desk.notices.note([refused(f"d{number}") for number in range(MAX_WAITING + 7)])
    assert desk.counted("dropped") == 7
