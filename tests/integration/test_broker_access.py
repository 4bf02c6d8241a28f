"""What an account may do at the broker, judged by what is delivered: mosquitto grants every SUBSCRIBE."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiomqtt
import pytest

from factoryd.embedded.mosquitto import EmbeddedMosquitto
from mqtt.access import Account, hash_secret, login_name

SECRET = "s3cret"
HASH = hash_secret(SECRET)
PRESS, LATHE = Account("press-1", HASH), Account("lathe:2", HASH)
GATEWAY = Account("gw-1", HASH, ("plc-7",))
LEAVES = ("telemetry", "status", "ota/progress", "ota/state", "ota/command", "rejected", "other")
MARKER = "end"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMosquitto]:
    directory = tmp_path_factory.mktemp("broker")
    with EmbeddedMosquitto(directory, sources=["tele/{device}/SENSOR"]) as broker:
        broker.set_accounts([PRESS, LATHE, GATEWAY])
        yield broker


def device(broker: EmbeddedMosquitto, name: str, secret: str = SECRET, identifier: str | None = None) -> aiomqtt.Client:
    return aiomqtt.Client(
        "127.0.0.1",
        broker.devices_port,
        username=login_name(name),
        password=secret,
        identifier=identifier or name,
        protocol=aiomqtt.ProtocolVersion.V5,
        timeout=10,
    )


def internal(url: str, identifier: str | None = None) -> aiomqtt.Client:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.password
    return aiomqtt.Client(
        parts.hostname,
        parts.port or 0,
        username=parts.username,
        password=unquote(parts.password),
        identifier=identifier,
        protocol=aiomqtt.ProtocolVersion.V5,
        timeout=10,
    )


async def delivered(receiver: aiomqtt.Client, sender: aiomqtt.Client, topics: list[str], marker: str) -> set[str]:
    """Sends to the topics and then to the marker; returns which of them came, the marker (one that may come) being last."""
    for topic in topics:
        await sender.publish(topic, topic, qos=1)
    await sender.publish(marker, MARKER, qos=1)
    came: set[str] = set()
    async with asyncio.timeout(10):
        async for message in receiver.messages:
            if message.payload == MARKER.encode():
                return came
            came.add(str(message.topic))
    raise AssertionError("unreachable: the messages end with the time-out")


@asynccontextmanager
async def everything(broker: EmbeddedMosquitto) -> AsyncIterator[aiomqtt.Client]:
    async with internal(broker.tools_url) as tools:
        await tools.subscribe("#", qos=1)
        yield tools


def device_topics(*names: str) -> list[str]:
    return [f"factory/devices/{name}/{leaf}" for name in names for leaf in LEAVES]


async def test_a_device_publishes_to_its_own_topics_only(broker: EmbeddedMosquitto) -> None:
    foreign = ["factory/alerts/press-1/temperature/1", "factory/daemon/main", "$SYS/broker/version", "tele/lathe:2/SENSOR", "x"]
    tried = [*device_topics("press-1", "lathe:2", "press-1/x", "plc-7"), "tele/press-1/SENSOR", *foreign]
    async with everything(broker) as tools, device(broker, "press-1") as press:
        came = await delivered(tools, press, tried, "factory/devices/press-1/telemetry")
    own = {f"factory/devices/press-1/{leaf}" for leaf in ("telemetry", "status", "ota/progress", "ota/state")}
    assert came == {*own, "tele/press-1/SENSOR"}


async def test_a_device_reads_its_own_topics_only(broker: EmbeddedMosquitto) -> None:
    tried = [*device_topics("press-1", "lathe:2"), "factory/alerts/press-1/t/1", "factory/daemon/main", "tele/press-1/SENSOR"]
    async with internal(broker.tools_url) as tools, device(broker, "press-1") as press:
        for wish in ("#", "factory/#", "$SYS/#", "factory/devices/+/ota/command", "$share/all/factory/#"):
            await press.subscribe(wish, qos=1)
        came = await delivered(press, tools, tried, "factory/devices/press-1/ota/command")
    assert came == {"factory/devices/press-1/ota/command", "factory/devices/press-1/rejected"}


async def test_a_device_with_a_colon_in_its_id_uses_its_own_topics(broker: EmbeddedMosquitto) -> None:
    tried = device_topics("lathe:2", "lathe~2", "press-1")
    async with everything(broker) as tools, device(broker, "lathe:2") as lathe:
        await lathe.subscribe("#", qos=1)
        came = await delivered(tools, lathe, tried, "factory/devices/lathe:2/telemetry")
        read = await delivered(lathe, tools, ["factory/devices/lathe:2/rejected"], "factory/devices/lathe:2/ota/command")
    # Those of its login belong to no device: factoryd refuses the name.
    leaves = ("telemetry", "status", "ota/progress", "ota/state")
    assert came == {f"factory/devices/{name}/{leaf}" for name in ("lathe:2", "lathe~2") for leaf in leaves}
    assert read == {"factory/devices/lathe:2/rejected"}


async def test_a_gateway_speaks_for_its_children_and_itself(broker: EmbeddedMosquitto) -> None:
    async with everything(broker) as tools, device(broker, "gw-1") as gateway:
        tried = [*device_topics("gw-1", "plc-7", "press-1"), "tele/plc-7/SENSOR"]
        came = await delivered(tools, gateway, tried, "factory/devices/gw-1/telemetry")
    leaves = ("telemetry", "status", "ota/progress", "ota/state")
    assert came == {*(f"factory/devices/{name}/{leaf}" for name in ("gw-1", "plc-7") for leaf in leaves), "tele/plc-7/SENSOR"}


async def test_factoryd_reads_everything_and_publishes_what_is_its_own(broker: EmbeddedMosquitto) -> None:
    own = [
        "factory/devices/press-1/ota/command",
        "factory/devices/press-1/rejected",
        "factory/alerts/press-1/temperature/1",
        "factory/alert-events/critical/press-1",
        "factory/alert-history/press-1",
        "factory/daemon/main",
        "factory/daemon/main/token",
        "factory/operators/anna/responses",
        "factory/operators/anna/responses/42",
    ]
    foreign = ["factory/devices/press-1/telemetry", "factory/operators/anna/commands", "elsewhere"]
    async with everything(broker) as tools, internal(broker.url, "secret-id") as daemon:
        assert await delivered(tools, daemon, [*own, *foreign], "factory/daemon/main") == set(own)
        await daemon.subscribe("#", qos=1)
        tried = [*device_topics("press-1"), "factory/operators/anna/commands", "tele/press-1/SENSOR", "elsewhere"]
        came = await delivered(daemon, tools, tried, "factory/daemon/main")
    assert came == set(tried) - {"elsewhere"}


async def test_a_device_that_claims_another_client_id_stays_itself(broker: EmbeddedMosquitto) -> None:
    """Without use_username_as_clientid the second CONNECT would end the first client and be handed its queue."""
    async with internal(broker.url, "factoryd-0123") as daemon, device(broker, "lathe:2") as lathe:
        await daemon.subscribe("factory/devices/+/telemetry", qos=1)
        for claimed in ("factoryd-0123", "lathe:2", "lathe~2"):
            async with device(broker, "press-1", identifier=claimed):
                pass
        came = await delivered(daemon, lathe, ["factory/devices/lathe:2/telemetry"], "factory/devices/lathe:2/telemetry")
    assert came == {"factory/devices/lathe:2/telemetry"}


@pytest.mark.parametrize(("name", "secret"), [("press-1", "wrong"), ("nobody", SECRET), ("", "")])
async def test_no_login_no_service(broker: EmbeddedMosquitto, name: str, secret: str) -> None:
    with pytest.raises(aiomqtt.MqttError, match=r"[Nn]ot authori[sz]ed"):
        async with device(broker, name, secret, identifier="x"):
            pass


async def test_accounts_are_changed_while_the_broker_runs(tmp_path: Path) -> None:
    with EmbeddedMosquitto(tmp_path) as broker:
        broker.set_accounts([PRESS])
        async with device(broker, "press-1") as press, everything(broker) as tools:
            broker.set_accounts([LATHE])
            with pytest.raises(aiomqtt.MqttError):
                await asyncio.wait_for(anext(aiter(press.messages)), 10)
            async with device(broker, "lathe:2") as lathe:
                topic = "factory/devices/lathe:2/telemetry"
                assert await delivered(tools, lathe, [topic], topic) == {topic}


async def test_a_durable_session_outlives_a_restart_of_the_broker(tmp_path: Path) -> None:
    topic = "factory/devices/press-1/ota/command"
    session = {"clean_start": False, "properties": _expiry(3600)}

    def sleeper(broker: EmbeddedMosquitto) -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1",
            broker.devices_port,
            username="press-1",
            password=SECRET,
            identifier="press-1",
            protocol=aiomqtt.ProtocolVersion.V5,
            **session,  # type: ignore[arg-type]  # a dict of two value types
        )

    broker = EmbeddedMosquitto(tmp_path)
    broker.set_accounts([PRESS])
    with broker:
        async with sleeper(broker) as press:
            await press.subscribe(topic, qos=1)
        async with internal(broker.tools_url) as tools:
            await tools.publish(topic, "update", qos=1)
    with broker:
        async with sleeper(broker) as press:
            message = await asyncio.wait_for(anext(aiter(press.messages)), 10)
    assert message.payload == b"update"


def _expiry(seconds: int) -> object:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has none
    properties.SessionExpiryInterval = seconds
    return properties
