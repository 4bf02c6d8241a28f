"""One device's connection to the broker: MQTT 5 by aiomqtt, with what aiomqtt leaves out for a device under test.

aiomqtt neither shows the reason code of a PUBACK nor wakes a waiting publish when the connection breaks, and cannot leave
without a DISCONNECT (which a will needs), and leaves no say in when a PUBACK is sent. DeviceClient adds the four; it is the
only place that looks inside the library.
"""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.client import MQTT_ERR_SUCCESS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

Account = tuple[str, str]
"""User name and password."""
Credentials = Account | Mapping[str, Account] | Callable[[str], Account] | None
"""One shared account, an account per device, or None for an anonymous broker."""

MAX_IN_FLIGHT = 20
"""Unacknowledged messages per connection: mosquitto's own default, so that no broker has reason to refuse."""


class BrokerUnavailable(ConnectionError):
    """The broker cannot be reached, or the connection broke: try again later."""


class ConnectionRefused(BrokerUnavailable):
    """The broker answered CONNECT with a refusal, such as a wrong password."""


class PublishRefused(Exception):
    """The broker acknowledged a message with a failure code, such as not authorised: it is not stored there."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are there."""

    host: str
    port: int = 1883
    root: str = "factory"
    credentials: Credentials = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    keep_alive_s: int = 30
    timeout_s: float = 10.0
    """Longest wait for a CONNACK or a PUBACK."""

    def account(self, device: str) -> Account | None:
        """Returns the device's user name and password, or None for anonymous.

        Raises:
            LookupError: the mapping of accounts has none for this device.
        """
        match self.credentials:
            case None | (str(), str()):
                return self.credentials
            case Mapping():
                return self._mapped(self.credentials, device)
            case function:
                return function(device)

    @staticmethod
    def _mapped(accounts: Mapping[str, Account], device: str) -> Account:
        try:
            return accounts[device]
        except KeyError:
            raise LookupError(f"no account for device {device!r}: add it to the credentials") from None


class DeviceClient(aiomqtt.Client):
    """An aiomqtt client that delivers with a verdict, notices a lost connection, and can vanish."""

    def __init__(
        self, broker: Broker, client_id: str, account: Account | None, will: aiomqtt.Will | None, session_s: int | None = None
    ) -> None:
        username, password = account or (None, None)
        super().__init__(
            broker.host,
            broker.port,
            identifier=client_id,
            username=username,
            password=password,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=session_s is None,
            properties=_connect_properties(session_s),
            will=will,
            keepalive=broker.keep_alive_s,
            timeout=broker.timeout_s,
            tls_context=broker.tls,
            max_inflight_messages=MAX_IN_FLIGHT,
        )
        self._verdicts: dict[int, asyncio.Future[ReasonCode]] = {}
        self._client.manual_ack_set(session_s is not None)

    async def deliver(self, topic: str, payload: bytes, *, retain: bool = False, content_type: str | None = None) -> None:
        """Publishes at QoS 1 and returns when the broker has acknowledged.

        Raises:
            BrokerUnavailable: the connection broke or the time is over; whether the broker has it is unknown.
            PublishRefused: the PUBACK carried a failure code.
        """
        info = self._client.publish(topic, payload, 1, retain, _publish_properties(content_type))
        if info.rc != MQTT_ERR_SUCCESS:
            raise BrokerUnavailable(f"the connection to the broker is down (code {info.rc})")
        verdict = self._verdicts[info.mid] = self._loop.create_future()
        try:
            await asyncio.wait({verdict, self._disconnected}, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._verdicts.pop(info.mid, None)
        if not verdict.done():
            raise BrokerUnavailable("the broker did not acknowledge a message before the connection or the time ended")
        if verdict.result().is_failure:
            raise PublishRefused(f"the broker refused a message on {topic}: {verdict.result()}")

    def acknowledge(self, message: aiomqtt.Message) -> None:
        """Sends the PUBACK of a message; needed with a kept session only, whose broker sends again what has none."""
        if message.qos == 1:
            self._client.ack(message.mid, message.qos)

    def vanish(self) -> None:
        """Breaks the connection without a DISCONNECT, as a power cut does: the broker publishes the will."""
        sock = self._client.socket()
        if self._disconnected.done():
            return
        if isinstance(sock, socket.socket) and sock.fileno() != -1:
            sock.shutdown(socket.SHUT_RDWR)
        else:
            self._disconnected.set_result(None)

    @property
    def is_gone(self) -> bool:
        """True: there is no socket. The library forgets a connection that ends in the moment in which it began."""
        return self._client.socket() is None

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is gone; wait for it with `asyncio.wait`, which leaves it alone."""
        return self._disconnected

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties) -> None:
        verdict = self._verdicts.get(mid)
        if verdict is not None and not verdict.done():
            verdict.set_result(reason_code)


@asynccontextmanager
async def connect(
    broker: Broker, client_id: str, account: Account | None, will: aiomqtt.Will | None = None, session_s: int | None = None
) -> AsyncIterator[DeviceClient]:
    """Holds a connection; leaving by an exception, a cancellation too, vanishes so that the will is published.

    Args:
        broker: where to.
        client_id: who.
        account: its login.
        will: what the broker says if we vanish.
        session_s: how long the broker keeps subscriptions and queue for us, and PUBACKs are ours to send; None: no session.

    Raises:
        ConnectionRefused: the broker said no.
        BrokerUnavailable: no answer, or the connection broke inside.
    """
    client = DeviceClient(broker, client_id, account, will, session_s)
    try:
        async with client:
            try:
                _heed_cancellation()
                if client.is_gone:
                    raise BrokerUnavailable(f"broker {broker.host}:{broker.port} hung up at once")
                yield client
            except BaseException:
                client.vanish()
                raise
        _heed_cancellation()
    except MqttConnectError as error:
        raise ConnectionRefused(f"broker {broker.host}:{broker.port} refused {client_id}: {error}") from error
    except aiomqtt.MqttError as error:
        _heed_cancellation()  # the library's complaint about the lost connection hides it
        raise BrokerUnavailable(f"broker {broker.host}:{broker.port} is not reachable: {error}") from error


def _heed_cancellation() -> None:
    """Python 3.11's wait_for, which the library uses, loses a cancellation that comes together with what is waited for."""
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError


def backoff(rng: random.Random, longest_s: float) -> Iterator[float]:
    """Yields pauses before the next attempts, in seconds: full jitter below 0.5 s doubling up to `longest_s`."""
    ceiling = 0.5
    while True:
        yield rng.uniform(0.0, min(ceiling, longest_s))
        ceiling = min(ceiling * 2, longest_s)


def _connect_properties(session_s: int | None) -> Properties | None:
    if session_s is None:
        return None
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own gap
    properties.SessionExpiryInterval = session_s
    return properties


def _publish_properties(content_type: str | None) -> Properties | None:
    if content_type is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own gap
    properties.ContentType = content_type
    return properties
