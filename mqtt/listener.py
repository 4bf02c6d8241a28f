"""A second, forgetful connection for people's commands: it sees what the broker says, and leaves nothing behind there.

By aiomqtt, with a random client id, clean start and no session expiry. Never used for what must not be lost.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from config.settings import MqttSettings
from mqtt.receiver import BrokerUnavailable, tls_context

logging.getLogger("mqtt").setLevel(logging.NOTSET)  # aiomqtt calls its logger so, raises its level, and would silence this room

TIMEOUT_S = 5.0
LEAVE_S = 1.0
MAX_QUEUED = 10_000


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as it came. A retained one was published before we listened."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    content_type: str | None


class Listener:
    """An open connection."""

    def __init__(self, client: "_Client") -> None:
        self._client = client

    @property
    def connack(self) -> Mapping[str, Any]:
        """The properties of CONNACK by their names in MQTT 5 without blanks, e.g. ReceiveMaximum; absent = the default."""
        return self._client.connack

    def waiting(self) -> int:
        """Messages received and not yet taken."""
        return len(self._client.messages)

    async def subscribe(self, filters: Sequence[str], *, retained: bool = False) -> None:
        """Subscribes at QoS 1; `retained` asks for retained messages as well.

        Raises:
            BrokerUnavailable: refused, or the connection broke.
        """
        options = SubscribeOptions(qos=1, retainHandling=0 if retained else 2)
        try:
            codes = await self._client.subscribe([(topic_filter, options) for topic_filter in filters])
        except aiomqtt.MqttError as error:
            raise BrokerUnavailable(f"subscribing failed: {error}") from error
        for topic_filter, code in zip(filters, codes, strict=True):
            if isinstance(code, ReasonCode) and code.is_failure:
                raise BrokerUnavailable(f"the broker refused the subscription to {topic_filter}: {code}")

    async def messages(self) -> AsyncIterator[Heard]:
        """Yields messages as they come.

        Raises:
            BrokerUnavailable: the connection ended.
        """
        try:
            async for message in self._client.messages:
                yield _heard(message)
        except aiomqtt.MqttError as error:
            raise BrokerUnavailable(f"the connection to the broker ended: {error}") from error

    async def until_silent(self, seconds: float) -> list[Heard]:
        """Returns what comes until nothing has come for that long."""
        heard: list[Heard] = []
        messages = aiter(self._client.messages)
        while True:
            try:
                async with asyncio.timeout(seconds):
                    heard.append(_heard(await anext(messages)))
            except TimeoutError:
                return heard
            except aiomqtt.MqttError as error:
                raise BrokerUnavailable(f"the connection to the broker ended: {error}") from error


@asynccontextmanager
async def open_listener(settings: MqttSettings, *, anonymous: bool = False) -> AsyncIterator[Listener]:
    """Connects with the settings' account, or `anonymous`.

    Raises:
        BrokerUnavailable: no broker, or it refused us.
    """
    assert settings.url is not None, "mqtt.url is checked by the caller"
    url = urlsplit(settings.url.get_secret_value())
    tls = tls_context(settings) if url.scheme == "mqtts" else None
    port = url.port or (8883 if tls else 1883)
    client = _Client(
        url.hostname or "localhost",
        port,
        identifier=f"factoryd-look-{secrets.token_hex(8)}",
        username=unquote(url.username) if url.username and not anonymous else None,
        password=unquote(url.password) if url.password and not anonymous else None,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=True,
        timeout=TIMEOUT_S,
        tls_context=tls,
        max_queued_incoming_messages=MAX_QUEUED,
    )
    try:
        try:
            await _enter(client)
        except aiomqtt.MqttError as error:
            raise BrokerUnavailable(f"broker {url.hostname}:{port}: {error}") from error
        try:
            yield Listener(client)
        finally:
            await _leave(client)
    finally:
        client.abandon()


class _Client(aiomqtt.Client):
    """Adds what aiomqtt leaves out: the properties of CONNACK."""

    def __init__(self, host: str, port: int, **options: Any) -> None:
        super().__init__(host, port, **options)
        self.connack: dict[str, Any] = {}

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        if properties is not None:
            self.connack = dict(vars(properties))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def abandon(self) -> None:
        """Ends what a failed or cancelled connect leaves behind: the library's task, a socket, an error nobody asked for."""
        if self._misc_task is not None:
            self._misc_task.cancel()
        connection = self._client.socket()
        if connection is not None:
            self._client.on_socket_close = self._client.on_socket_unregister_write = None  # they would ask the closed one
            self._loop.remove_reader(connection.fileno())
            self._loop.remove_writer(connection.fileno())
            connection.close()
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()


async def _enter(client: _Client) -> None:
    """The library connects in a thread, which nobody can cancel: it is waited for, or its task would be left behind."""
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        await asyncio.wait({entering}, timeout=LEAVE_S)
        if entering.done() and entering.exception() is None:
            await _leave(client)
        raise


async def _leave(client: _Client) -> None:
    try:
        await client.__aexit__(None, None, None)
    except aiomqtt.MqttError:
        return  # it is gone already


def _heard(message: aiomqtt.Message) -> Heard:
    kind = getattr(message.properties, "ContentType", None)
    return Heard(message.topic.value, message.payload, message.qos, message.retain, kind)
