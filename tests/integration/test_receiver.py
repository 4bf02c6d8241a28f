"""Session rules of docs/mqtt.md against a real mosquitto. Each test names its rule, and fails when the rule is broken."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import mqtt5
import pytest
from structlog.testing import capture_logs

from factoryd.embedded.directory import free_port
from mqtt import receiver as receiver_module
from mqtt.connection import acknowledge_all
from mqtt.session import Session
from tests.integration.receiving import CLIENT_ID, Broker, numbered, publish, raw_client, receiving, running_broker

COUNT = 50


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path) as running:
        yield running


async def queue_while_away(broker: Broker, payloads: list[bytes]) -> None:
    """Makes the session, leaves it, and publishes."""
    async with receiving(broker.port) as watched:
        await watched.ready()
    await publish(broker.port, payloads)


# Rule 1: Clean Start 0 from the first connect, session expiry also at DISCONNECT, a fixed id


async def test_messages_wait_while_we_are_away(broker: Broker) -> None:
    """Fails if Clean Start is 1, if DISCONNECT ends the session, or if we UNSUBSCRIBE when we leave (rule 3)."""
    await queue_while_away(broker, numbered(COUNT))
    async with receiving(broker.port, session_expected=True) as watched:
        await watched.until(lambda: watched.payloads == numbered(COUNT))
        assert watched.metric("session_present") == 1
        assert watched.metric("sessions_lost_total") == 0


async def test_the_first_connect_is_no_incident(broker: Broker) -> None:
    async with receiving(broker.port) as watched:
        await watched.ready()
        assert watched.metric("session_present") == 0
        assert watched.metric("sessions_lost_total") == 0
        assert watched.metric("connected") == 1


async def test_a_lost_session_is_an_incident(broker: Broker) -> None:
    """The broker restarts without persistence: counted, logged, subscribed again."""
    with capture_logs() as logs:
        async with receiving(broker.port) as watched:
            await watched.ready()
            await broker.restart()
            async with asyncio.timeout(10):
                while watched.metric("sessions_lost_total") == 0:
                    await asyncio.sleep(0.005)
            await watched.ready()
            await publish(broker.port, numbered(1))
            await watched.until(lambda: watched.payloads == numbered(1))
    lost = [entry for entry in logs if entry["event"] == "session_lost"]
    assert [(entry["session"], entry["log_level"]) for entry in lost] == [("telemetry", "error")]


async def test_a_session_lost_between_two_runs_is_an_incident(broker: Broker) -> None:
    async with receiving(broker.port, session_expected=True) as watched:
        await watched.ready()
        assert watched.metric("sessions_lost_total") == 1


@pytest.mark.parametrize(("protection", "kept"), [("use_username_as_clientid true", COUNT), ("", 0)])
async def test_a_device_that_takes_our_name(tmp_path: Path, protection: str, kept: int) -> None:
    """The second case shows what the setting is for: without it the queue is gone."""
    devices = free_port()
    lines = [f"listener {devices} 127.0.0.1", protection]
    async with running_broker(tmp_path, listener=lines) as broker:
        await queue_while_away(broker, numbered(COUNT))
        async with raw_client(devices, CLIENT_ID, username="evil"):
            pass
        async with receiving(broker.port) as watched:
            await watched.ready()
            await watched.marker(broker.port)
            assert len(watched.payloads) - 1 == kept


async def test_another_connection_with_our_id_is_survived(broker: Broker) -> None:
    """Two daemons with one id would throw each other out; ours comes back, and nothing is lost."""
    async with receiving(broker.port, acknowledging=False) as watched:
        await watched.ready()
        await publish(broker.port, numbered(3))
        await watched.until(lambda: len(watched.payloads) == 3)
        async with raw_client(broker.port, CLIENT_ID, clean_start=False, session_expiry_interval=1000):
            pass
        await watched.until(lambda: len(watched.payloads) == 6)
        assert watched.metric("reconnects_total") >= 1


# Rule 2: the receive maximum is explicit


@pytest.fixture
async def stock_broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """With mosquitto's own default for what is under way at once."""
    async with running_broker(tmp_path, "max_inflight_messages 20") as running:
        yield running


async def test_the_window_is_ours(stock_broker: Broker) -> None:
    """300 are under way at once; if the receive maximum were left out, mosquitto would stop at its own 20."""
    broker = stock_broker
    async with receiving(broker.port, acknowledging=False, receive_maximum=300) as watched:
        await watched.ready()
        await publish(broker.port, numbered(300))
        await watched.until(lambda: len(watched.payloads) == 300)


async def test_the_window_holds_live_messages(broker: Broker) -> None:
    async with receiving(broker.port, acknowledging=False, receive_maximum=20) as watched:
        await watched.ready()
        await publish(broker.port, numbered(100))
        await watched.until(lambda: len(watched.payloads) == 20)
        watched.acknowledging = True
        acknowledge_all(watched.deliveries)
        await watched.until(lambda: len(watched.payloads) == 100)
        assert watched.payloads == numbered(100)


async def test_65535_is_omitted_by_the_codec(stock_broker: Broker) -> None:
    """Why the settings refuse it: the default of the standard is not mosquitto's."""
    broker = stock_broker
    async with raw_client(broker.port, "other", receive_max=65535) as client:
        client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("t/+", max_qos=mqtt5.QoS.AT_LEAST_ONCE)]))
        await client.expect(mqtt5.SubAckPacket)
        await publish(broker.port, numbered(30))
        for _ in range(20):
            await client.expect(mqtt5.PublishPacket)
        client.send(mqtt5.PingReqPacket())
        await client.expect(mqtt5.PingRespPacket)


# Rule 3: SUBSCRIBE after every CONNACK


async def test_subscribes_again_though_the_session_is_present(broker: Broker) -> None:
    """The subscription was removed by another hand: only SUBSCRIBE after CONNACK brings it back."""
    async with receiving(broker.port) as watched:
        await watched.ready()
    async with raw_client(broker.port, CLIENT_ID, clean_start=False, session_expiry_interval=1000) as client:
        client.send(mqtt5.UnsubscribePacket(1, ["t/+"]))
        await client.expect(mqtt5.UnsubAckPacket)
    async with receiving(broker.port) as watched:
        await watched.ready()
        assert watched.metric("session_present") == 1
        await publish(broker.port, numbered(1))
        await watched.until(lambda: watched.payloads == numbered(1))


async def test_messages_before_suback_are_delivered(broker: Broker) -> None:
    """A resumed session delivers right after CONNACK, before we have said SUBSCRIBE."""
    await queue_while_away(broker, numbered(COUNT))
    async with receiving(broker.port) as watched:
        await watched.ready()
        await watched.until(lambda: watched.payloads == numbered(COUNT))
        assert watched.before_ready > 0


# Rule 4: PUBACK after commit, in order, on the connection that delivered


async def test_what_is_not_acknowledged_comes_again(broker: Broker) -> None:
    async with receiving(broker.port, acknowledging=False) as watched:
        await watched.ready()
        await publish(broker.port, numbered(COUNT))
        await watched.until(lambda: len(watched.payloads) == COUNT)
        await watched.lose_connection()
        await watched.until(lambda: len(watched.payloads) == 2 * COUNT)
        assert watched.payloads == numbered(COUNT) * 2
        assert all(again.duplicate for again in watched.publishes[COUNT:])


async def test_what_is_acknowledged_does_not(broker: Broker) -> None:
    async with receiving(broker.port) as watched:
        await watched.ready()
        await publish(broker.port, numbered(5000))
        await watched.until(lambda: len(watched.payloads) == 5000)
        assert watched.payloads == numbered(5000)
        await watched.settled()
    async with receiving(broker.port) as watched:
        await watched.ready()
        await watched.marker(broker.port)
        assert watched.metric("session_present") == 1
        assert watched.payloads == [b"marker"]


async def test_only_what_is_acknowledged_is_gone(broker: Broker) -> None:
    async with receiving(broker.port, acknowledging=False) as watched:
        await watched.ready()
        await publish(broker.port, numbered(COUNT))
        await watched.until(lambda: len(watched.payloads) == COUNT)
        connection = watched.deliveries[0].connection
        connection.acknowledge([each.packet_id for each in watched.publishes[:20] if each.packet_id is not None])
        await watched.settled()
        await watched.lose_connection()
        await watched.until(lambda: len(watched.payloads) == COUNT + 30)
        assert watched.payloads[COUNT:] == numbered(30, first=20)


async def test_no_acknowledgement_on_another_connection(broker: Broker) -> None:
    """Packet ids start anew with each connection: a late PUBACK would drop somebody else's message."""
    async with receiving(broker.port, acknowledging=False) as watched:
        await watched.ready()
        await publish(broker.port, numbered(COUNT))
        await watched.until(lambda: len(watched.payloads) == COUNT)
        old = list(watched.deliveries)
        await watched.lose_connection()
        await watched.until(lambda: len(watched.payloads) == 2 * COUNT)
        acknowledge_all(old)
        await watched.lose_connection()
        await watched.until(lambda: len(watched.payloads) == 3 * COUNT)


async def test_qos_0_is_handed_over_and_not_acknowledged(broker: Broker) -> None:
    async with receiving(broker.port) as watched:
        await watched.ready()
        async with raw_client(broker.port) as client:
            client.send(mqtt5.PublishPacket("t/a", b"x", qos=mqtt5.QoS.AT_MOST_ONCE))
            await watched.until(lambda: watched.payloads == [b"x"])
        assert watched.publishes[0].packet_id is None
        await watched.marker(broker.port)
        assert watched.metric("reconnects_total") == 0


# Are the tests worth anything? With a rule broken they fail.


@pytest.mark.parametrize("broken", ["clean start", "no subscribe", "session expiry"])
async def test_a_broken_rule_is_seen(broker: Broker, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks rule 1 or 3 in the session, and repeats what the tests above do: the messages are gone."""

    def connect(self: Session) -> None:
        original(self)
        if broken == "clean start":
            self.outgoing[9] |= 2

    def feed(self: Session, data: memoryview) -> tuple[list[mqtt5.PublishPacket], int]:
        found = plain_feed(self, data)
        if broken == "no subscribe" and self.outgoing:
            self.outgoing.clear()
        return found

    original, plain_feed = Session.connect, Session.feed
    monkeypatch.setattr(Session, "connect", connect)
    if broken == "no subscribe":
        monkeypatch.setattr(receiver_module, "CONNECT_TIMEOUT_S", 0.2)
        monkeypatch.setattr(Session, "feed", feed)
    expiry = 0 if broken == "session expiry" else 1000
    async with receiving(broker.port, session_expiry_s=expiry) as watched:
        if broken != "no subscribe":
            await watched.ready()
    await publish(broker.port, numbered(COUNT))
    async with receiving(broker.port, session_expiry_s=expiry) as watched:
        if broken == "no subscribe":
            async with asyncio.timeout(10):
                while watched.metric("reconnects_total") < 1:
                    await asyncio.sleep(0.005)
        else:
            await watched.ready()
            await watched.marker(broker.port)
        assert not set(numbered(COUNT)) & set(watched.payloads)
