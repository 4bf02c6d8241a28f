"""What a device's connection has over the library's, against a real mosquitto."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from simulator.connection import Broker, BrokerUnavailable, connect
from tests.integration.simulating import ROOT, Mosquitto, running_mosquitto

NAME = "press-01"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with running_mosquitto(tmp_path) as broker:
        yield broker


async def test_a_cancellation_that_comes_with_the_connack_is_heeded(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = aiomqtt.Client.__aenter__

    async def swallows(client: aiomqtt.Client) -> aiomqtt.Client:
        entered = await enter(client)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return entered

    async def connected() -> None:
        async with connect(Broker("127.0.0.1", mosquitto.port, root=ROOT), NAME, None):
            raise AssertionError("it goes on")

    monkeypatch.setattr(aiomqtt.Client, "__aenter__", swallows)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(connected())


async def test_a_connection_that_ends_as_it_begins_is_noticed(mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    enter = aiomqtt.Client.__aenter__

    async def broken(client: aiomqtt.Client) -> aiomqtt.Client:
        entered = await enter(client)
        entered._client._sock_close()
        return entered

    monkeypatch.setattr(aiomqtt.Client, "__aenter__", broken)
    with pytest.raises(BrokerUnavailable, match="hung up at once"):
        async with connect(Broker("127.0.0.1", mosquitto.port, root=ROOT), NAME, None):
            raise AssertionError("it goes on")
