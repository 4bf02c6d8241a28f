"""The receiver and its socket: pauses, overflowing queues, sizes, bad peers, TLS (docs/mqtt.md, session rules 5 and 7)."""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mqtt5
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from config.settings import IngestSettings
from config.storage_settings import RetentionSettings
from factoryd.embedded.directory import free_port
from ingest.devices import DeviceRow, Registry
from ingest.intake import Intake
from ingest.metrics import IngestMetrics
from ingest.routes import Routes
from mqtt import connection as connection_module
from mqtt.connection import Deliveries, acknowledge_all
from tests.integration.receiving import Broker, Watched, numbered, publish, receiving, running_broker

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


# Rule 5: the broker may exceed the window; pausing the socket bounds our memory, and keep-alive goes on


async def test_keep_alive_goes_on_while_paused() -> None:
    """For longer than the 1.5 keep-alives after which a broker drops a client: four PINGREQ, half a second apart."""
    pings = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(mqtt5.ConnAckPacket().write())
        await reader.read(1000)
        writer.write(mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write())
        for _ in range(4):
            assert await reader.readexactly(2) == mqtt5.PingReqPacket().write()
        pings.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, receiving(server.sockets[0].getsockname()[1], keep_alive_s=1) as watched:
        await watched.ready()
        watched.receiver.pause()
        async with asyncio.timeout(5):
            await pings.wait()


async def test_a_pause_holds_the_socket_and_keeps_the_connection(broker: Broker) -> None:
    async with receiving(broker.port) as watched:
        await watched.ready()
        watched.receiver.pause()
        assert watched.metric("paused") == 1
        await publish(broker.port, numbered(COUNT))
        await asyncio.sleep(0.1)
        assert watched.payloads == []
        assert watched.metric("reconnects_total") == 0
        watched.receiver.resume()
        await watched.until(lambda: watched.payloads == numbered(COUNT))
        assert watched.metric("paused") == 0
        assert watched.metric("reconnects_total") == 0


async def test_a_pause_bounds_what_is_handed_over(broker: Broker) -> None:
    """The window does not: the backlog comes beyond it on mosquitto 2.0."""
    await queue_while_away(broker, [b"x" * 10_000] * 500)
    async with receiving(broker.port, acknowledging=False, receive_maximum=20) as watched:
        deliver = watched.deliver

        def deliver_and_pause(deliveries: Deliveries) -> None:
            deliver(deliveries)
            watched.receiver.pause()

        watched.deliver = deliver_and_pause  # type: ignore[method-assign]
        await watched.until(lambda: watched.receiver.paused)
        assert len(watched.payloads) <= connection_module.READ_BUFFER_BYTES // 10_000 + 1
        watched.deliver = deliver  # type: ignore[method-assign]
        watched.acknowledging = True
        acknowledge_all(watched.deliveries)
        watched.receiver.resume()
        await watched.until(lambda: len(watched.payloads) == 500)


async def test_a_pause_outlives_a_reconnect(broker: Broker) -> None:
    async with receiving(broker.port, acknowledging=False) as watched:
        await watched.ready()
        await publish(broker.port, numbered(3))
        await watched.until(lambda: len(watched.payloads) == 3)
        watched.receiver.pause()
        connection = watched.receiver._connection
        assert connection is not None
        assert connection._transport is not None
        connection._transport.abort()
        async with asyncio.timeout(10):
            while watched.receiver._connection is connection or not _is_paused(watched):
                await asyncio.sleep(0.001)
        assert watched.receiver.paused
        watched.receiver.resume()
        await watched.until(lambda: len(watched.payloads) == 6)
        await watched.ready()


def _is_paused(watched: Watched) -> bool:
    connection = watched.receiver._connection
    return connection is not None and connection.paused


# Rule 7: what the broker drops is noticed


async def test_a_queue_that_overflows_is_noticed(tmp_path: Path) -> None:
    """The broker acknowledges what its full queue then drops; the gap in seq is the only proof."""
    async with running_broker(tmp_path, "max_queued_messages 10") as broker:
        registry, devices = CollectorRegistry(), Registry()
        devices.load([DeviceRow(1, "a")])
        metrics = IngestMetrics(registry)
        intake = Intake(IngestSettings(), RetentionSettings(), devices, Routes("factory", ()), metrics)

        def message(seq: int) -> bytes:
            return json.dumps({"temperature": seq, "seq": seq, "boot_id": "b"}).encode()

        async with receiving(broker.port) as watched:
            await watched.ready()
            await publish(broker.port, [message(0)])
            await watched.until(lambda: len(watched.payloads) == 1)
            seen = list(watched.deliveries)
        await publish(broker.port, [message(seq) for seq in range(1, 51)])
        async with receiving(broker.port) as watched:
            await watched.ready()
            await publish(broker.port, [message(51)])
            await watched.until(lambda: message(51) in watched.payloads)
            seen += watched.deliveries
        for delivery in seen:
            for packet in delivery.publishes:
                native = mqtt5.PublishPacket(
                    "factory/devices/a/telemetry", packet.payload, qos=packet.qos, packet_id=packet.packet_id
                )
                intake.take(replace(delivery, publishes=[native]))
        arrived = sum(len(delivery.publishes) for delivery in seen)
        assert arrived == 12
        assert registry.get_sample_value("factoryd_ingest_sequence_missing_total") == 52 - arrived
        assert devices.by_name["a"].streams["b"].missing_count == 52 - arrived


# The connection itself


async def test_messages_of_every_size(broker: Broker) -> None:
    """Larger than the read buffer, then small ones again."""
    payloads = [b"a" * size for size in (0, 1, 127, 128, 16_384, 262_144, 262_145, 900_000, 5)] * 2
    async with receiving(broker.port) as watched:
        await watched.ready()
        await publish(broker.port, payloads)
        await watched.until(lambda: len(watched.payloads) == len(payloads))
        assert watched.payloads == payloads
        assert watched.metric("reconnects_total") == 0


async def test_retained_telemetry_is_not_asked_for(broker: Broker) -> None:
    await publish(broker.port, [b"old"], "t/retained", retain=True)
    async with receiving(broker.port) as watched:
        await watched.ready()
        await publish(broker.port, [b"live"], "t/retained", retain=True)
        await watched.until(lambda: watched.payloads == [b"live"])
        assert not watched.publishes[0].retain, "a live message is stored although its sender set the flag"


async def test_a_wrong_password_is_said_and_tried_again(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with running_broker(tmp_path, listener=["allow_anonymous false"]) as broker, receiving(broker.port) as watched:
            async with asyncio.timeout(10):
                while watched.metric("reconnects_total") < 3:
                    await asyncio.sleep(0.005)
            assert watched.metric("connected") == 0
    assert any("not authorized" in entry.get("reason", "") for entry in logs)


async def test_no_broker_is_waited_for(tmp_path: Path) -> None:
    async with running_broker(tmp_path) as broker:
        broker.stop()
        async with receiving(broker.port) as watched:
            async with asyncio.timeout(10):
                while watched.metric("reconnects_total") < 3:
                    await asyncio.sleep(0.005)
            await broker.start()
            await watched.ready()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00\x01", b"\x00", b"\x20\x03\x00\x00\x00\x32\xff\xff\xff\xff", b""],
    ids=["http", "mqtt 3", "zero", "endless length", "nothing"],
)
async def test_a_peer_that_speaks_no_mqtt(answer: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, receiving(server.sockets[0].getsockname()[1]) as watched:
        async with asyncio.timeout(10):
            while watched.metric("reconnects_total") < 3:
                await asyncio.sleep(0.005)
        assert watched.payloads == []


async def test_a_broker_that_fell_silent_is_left() -> None:
    """It accepted us, and then answers nothing, not even PINGREQ: noticed after 1.5 keep-alives, 1.5 s here."""
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read(1000)
        writer.write(mqtt5.ConnAckPacket().write())
        await reader.read(1000)
        writer.write(mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write())

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with capture_logs() as logs:
        async with server, receiving(server.sockets[0].getsockname()[1], keep_alive_s=1) as watched:
            await watched.ready()
            async with asyncio.timeout(10):
                while len(held) < 2:
                    await asyncio.sleep(0.01)
        for writer in held:
            writer.close()
    assert any("nothing heard from the broker" in entry.get("reason", "") for entry in logs)


# TLS


def make_certificates(directory: Path) -> None:
    """A CA of our own, and a certificate of it for 127.0.0.1."""
    now = datetime.now(UTC)

    def signed(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, is_ca: bool
    ) -> x509.Certificate:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder(named(issuer), named(name), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(by, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / "ca.pem").write_bytes(signed("ca", ca_key, "ca", ca_key, True).public_bytes(pem))
    (directory / "cert.pem").write_bytes(signed("broker", key, "ca", ca_key, False).public_bytes(pem))
    (directory / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


async def test_tls(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    plain = free_port()
    tls = [f"certfile {tmp_path}/cert.pem", f"keyfile {tmp_path}/key.pem", f"listener {plain} 127.0.0.1"]
    async with running_broker(tmp_path, listener=tls) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        async with receiving(broker.port, url=url, ca_file=tmp_path / "ca.pem") as watched:
            await watched.ready()
            payloads = [*numbered(500), b"x" * 600_000]
            await publish(plain, payloads)
            await watched.until(lambda: len(watched.payloads) == len(payloads))
            assert watched.payloads == payloads
            watched.receiver.pause()
            await publish(plain, [b"later"])
            watched.receiver.resume()
            await watched.until(lambda: watched.payloads[-1] == b"later")
        for reason, address in (("certificate verify failed", url), ("", "")):
            with capture_logs() as logs:
                async with receiving(broker.port, url=address) as watched, asyncio.timeout(10):
                    while watched.metric("reconnects_total") < 2:
                        await asyncio.sleep(0.005)
            assert watched.payloads == []
            assert any(reason in entry.get("reason", "") for entry in logs)
