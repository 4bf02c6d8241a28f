"""The publisher against a real broker: acknowledgement, refusal, loss and return of the connection, birth and will."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.settings import MqttSettings
from factoryd.embedded.directory import free_port
from mqtt import topics
from mqtt.metrics import PublisherMetrics
from mqtt.publisher import Publisher
from mqtt.receiver import BrokerUnavailable
from mqtt.sender import PublishRefused
from tests.integration.plant import until
from tests.services import Broker

START = datetime(2026, 5, 20, 12, tzinfo=UTC)


def publisher_for(url: str, root: str, **settings: Any) -> Publisher:
    mqtt = MqttSettings(url=SecretStr(url), root=root, **settings)
    return Publisher(mqtt, instance="main", version="1.2.3", clock=lambda: START, metrics=PublisherMetrics(CollectorRegistry()))


@asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(publisher.run())
    try:
        await asyncio.wait_for(publisher.ready.wait(), 10)
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def watching(url: str, *filters: str, client_id: str | None = None) -> AsyncIterator[aiomqtt.Client]:
    parts = urlsplit(url)
    async with aiomqtt.Client(
        str(parts.hostname),
        parts.port or 1883,
        username=parts.username,
        password=parts.password,
        identifier=client_id,
        protocol=aiomqtt.ProtocolVersion.V5,
    ) as client:
        for topic_filter in filters:
            await client.subscribe(topic_filter, qos=1)
        yield client


async def next_message(client: aiomqtt.Client) -> tuple[str, Any, bool]:
    async with asyncio.timeout(10):
        message = await anext(aiter(client.messages))
    assert isinstance(message.payload, bytes)
    return str(message.topic), json.loads(message.payload), message.retain


async def test_a_message_is_published_when_the_broker_has_acknowledged_it(mosquitto: Broker, mqtt_root: str) -> None:
    async with (
        running(publisher := publisher_for(mosquitto.tools_url, mqtt_root)),
        watching(mosquitto.tools_url, f"{mqtt_root}/x/#") as client,
    ):
        await asyncio.gather(*(publisher.publish(f"{mqtt_root}/x/y", b"%d" % number) for number in range(100)))
        arrived = [(await next_message(client))[1] for _ in range(100)]
        assert sorted(arrived) == list(range(100))


async def test_birth_blind_and_farewell_are_retained(mosquitto: Broker, mqtt_root: str) -> None:
    topic, url = topics.daemon(mqtt_root, "main"), mosquitto.tools_url
    said: dict[str, str] = {"version": "1.2.3", "since": "2026-05-20T12:00:00+00:00"}
    publisher = publisher_for(url, mqtt_root)
    async with running(publisher):
        await publisher.announce("online")
        async with watching(url, topic) as client:
            assert await next_message(client) == (topic, said | {"status": "online"}, True)
            await publisher.announce("blind", cause="database")
            assert (await next_message(client))[1] == said | {"status": "blind", "cause": "database"}
    async with watching(url, topic) as client:
        assert await next_message(client) == (topic, said | {"status": "offline"}, True)


async def test_a_lost_connection_leaves_the_will_and_comes_back_with_the_birth(mosquitto: Broker, mqtt_root: str) -> None:
    url, topic = mosquitto.tools_url, topics.daemon(mqtt_root, "main")
    publisher = publisher_for(url, mqtt_root, reconnect_max_s=0.2)
    async with running(publisher), watching(url, topic) as client:
        assert (await next_message(client))[1]["status"] == "online"
        async with watching(url, client_id=publisher.client_id):  # the broker ends the publisher's connection
            pass
        assert (await next_message(client))[1]["status"] == "offline"
        assert (await next_message(client))[1]["status"] == "online"
        await publisher.publish(f"{mqtt_root}/x", b"1")


async def test_without_a_broker_it_says_so_at_once_and_connects_when_there_is_one(mqtt_root: str) -> None:
    port = free_port()
    publisher = publisher_for(f"mqtt://127.0.0.1:{port}", mqtt_root, reconnect_max_s=0.1)
    task = asyncio.create_task(publisher.run())
    try:
        with pytest.raises(BrokerUnavailable, match="not connected"):
            await publisher.publish("x", b"")
        broker = await asyncio.create_subprocess_exec("/usr/sbin/mosquitto", "-p", str(port), stderr=asyncio.subprocess.DEVNULL)
        await asyncio.wait_for(publisher.ready.wait(), 10)
        os.kill(broker.pid, signal.SIGSTOP)  # frozen: it reads nothing and acknowledges nothing
        waiting = asyncio.create_task(publisher.publish("x", b"1"))
        await asyncio.sleep(0)
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(waiting, 5)
        await broker.wait()
        await until(lambda: not publisher.ready.is_set())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_refused_message_is_not_taken_for_published(mosquitto: Broker) -> None:
    async with running(publisher := publisher_for(mosquitto.url, "factory")):
        with pytest.raises(PublishRefused, match="Not authorized; check our account"):
            await publisher.publish("not/ours", b"")
