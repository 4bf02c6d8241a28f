"""Waiting for servers that are away: what is logged, and how long the pauses are."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from config.settings import MqttSettings
from mqtt.metrics import ReceiverMetrics
from mqtt.receiver import Receiver
from storage.waiting import LONGEST_PAUSE_S, Waiting


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is set by the test."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    loop = ManualLoop()
    yield loop
    loop.close()


def test_a_wait_is_told_at_first_and_once_a_minute(loop: ManualLoop) -> None:
    async def wait() -> None:
        waiting = Waiting()
        for _ in range(125):
            waiting.failed("away")
            loop.ahead_s += 1
        loop.ahead_s += 3600
        waiting.failed("away again")

    with capture_logs() as events:
        loop.run_until_complete(wait())
    assert [event["attempt"] for event in events] == [1, 61, 121, 1]


def test_pauses_grow_to_a_bound_and_end_with_the_trouble(loop: ManualLoop) -> None:
    async def paused(waiting: Waiting) -> float:
        started = loop.time()
        await waiting.pause()
        return loop.time() - started

    async def wait() -> tuple[float, float, float]:
        waiting = Waiting()
        before = await paused(waiting)
        for _ in range(1000):
            waiting.failed("away")
        during = await paused(waiting)
        loop.ahead_s += 3600
        return before, during, await paused(waiting)

    before, during, after = loop.run_until_complete(wait())
    assert max(before, after) < 0.01
    assert 0.04 < during < LONGEST_PAUSE_S + 0.2


def test_a_broker_that_refuses_us_is_told_at_first_and_once_a_minute(loop: ManualLoop) -> None:
    async def wait() -> None:
        receiver = Receiver(
            MqttSettings(url=SecretStr("mqtt://127.0.0.1:1")),
            name="telemetry",
            client_id="c",
            subscriptions=(),
            deliver=lambda _: None,
            clock=lambda: datetime.now(UTC),
            metrics=ReceiverMetrics(CollectorRegistry()),
        )
        for attempt in range(1, 130):
            receiver._note_loss("not authorised", attempt)
            loop.ahead_s += 1

    with capture_logs() as events:
        loop.run_until_complete(wait())
    assert [event["attempt"] for event in events] == [1, 61, 121]
