"""Looks at a broker as far as a client can: CONNACK, $SYS, and whether strangers get in (session rule 7 of docs/mqtt.md).

`look` does the looking, `judge` (PURE) says what it means.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from config.settings import MqttSettings
from mqtt.listener import open_listener
from mqtt.receiver import BrokerUnavailable

SYS = ("$SYS/broker/version", "$SYS/broker/publish/messages/dropped", "$SYS/broker/store/messages/count")
SILENCE_S = 0.5
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
GOOD_EXPIRY = (2, 0, 15)
RECOMMENDED = (2, 1, 2)
SMALL_WINDOW = 100

UNSEEN = {
    "persistence": "true, or a restart of the broker loses every queue (default: false)",
    "autosave_interval": "30: what was acknowledged since the last save is lost when the broker is killed (default: 1800)",
    "max_queued_messages": "rate x longest outage; beyond it readings are lost after their PUBACK (default: 1000)",
    "max_queued_bytes": "room for them, e.g. 536870912",
    "queue_qos0_messages": "false, so that QoS 0 cannot push QoS 1 out of a full queue",
    "persistent_client_expiration": "longer than mqtt.session_expiry_s (7 days), e.g. 14d",
    "use_username_as_clientid": "true on the devices' listener, or a device can take over another's session",
}
"""What no client can see of mosquitto.conf, and what it should be."""


class Grade(StrEnum):
    """How good a finding is."""

    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"
    UNSEEN = "verify"
    """No client can see it: look into mosquitto.conf."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the broker."""

    grade: Grade
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a broker."""

    connack: Mapping[str, Any]
    sys: Mapping[str, str]
    """$SYS values by topic; empty if it publishes none, or not to us."""
    lets_strangers_in: bool


async def look(settings: MqttSettings) -> Seen:
    """Connects (twice), reads, and leaves nothing behind.

    Raises:
        BrokerUnavailable: no broker, or it refused our account.
    """
    async with open_listener(settings) as listener:
        await listener.subscribe(SYS, retained=True)
        heard = await listener.until_silent(SILENCE_S)
        connack = dict(listener.connack)
    values = {message.topic: message.payload.decode("utf-8", "replace") for message in heard}
    return Seen(connack, values, await _lets_strangers_in(settings))


def judge(settings: MqttSettings, seen: Seen) -> Iterator[Finding]:
    """Yields what was found, in the order of importance to a reader."""
    yield _version(seen)
    yield from _from_connack(settings, seen.connack)
    yield _strangers(seen)
    yield from _transport(settings)
    yield from _drops(seen)
    for option, advice in UNSEEN.items():
        yield Finding(Grade.UNSEEN, option, advice)


def version_of(text: str) -> tuple[int, int, int] | None:
    """Returns the version in mosquitto's `$SYS/broker/version`; None for another broker."""
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


async def _lets_strangers_in(settings: MqttSettings) -> bool:
    try:
        async with open_listener(settings, anonymous=True):
            return True
    except BrokerUnavailable:
        return False


def _version(seen: Seen) -> Finding:
    text = seen.sys.get(SYS[0], "")
    version = version_of(text)
    if version is None:
        what = f"is {text!r}" if text else "cannot be seen ($SYS not published, or not for this account)"
        return Finding(Grade.WARNING, "version", f"{what}; the session rules were tested with mosquitto 2.0.11 to 2.1.2")
    if version < GOOD_EXPIRY:
        stall = "its queues stall on expired messages: no Message Expiry may be used with it"
        return Finding(Grade.WARNING, "version", f"{text}: {stall} (fixed in 2.0.15); 2.1.2 with sqlite persistence is best")
    if version < RECOMMENDED:
        return Finding(Grade.WARNING, "version", f"{text}: good; 2.1.2 with sqlite persistence loses nothing when it is killed")
    return Finding(Grade.GOOD, "version", text)


def _from_connack(settings: MqttSettings, connack: Mapping[str, Any]) -> Iterator[Finding]:
    window = connack.get("ReceiveMaximum", 65535)
    small = window < SMALL_WINDOW
    yield Finding(
        Grade.WARNING if small else Grade.GOOD,
        "max_inflight_messages",
        f"{window}{': a device that catches up over a slow link is held; 1000 is better' if small else ''}",
    )
    size = connack.get("MaximumPacketSize")
    if size is not None and size < settings.max_packet_bytes:
        text = f"{size}, less than mqtt.max_packet_bytes ({settings.max_packet_bytes}): larger messages end the connection"
        yield Finding(Grade.WARNING, "max_packet_size", text)
    else:
        yield Finding(Grade.GOOD, "max_packet_size", str(size or "no limit"))
    if connack.get("MaximumQoS", 2) < 1:
        yield Finding(Grade.PROBLEM, "max_qos", "the broker offers QoS 0 only: nothing can be guaranteed; set max_qos 2")
    if not connack.get("RetainAvailable", 1):
        yield Finding(Grade.PROBLEM, "retain_available", "false: births, wills and alert states need retained messages")
    if not connack.get("WildcardSubscriptionAvailable", 1):
        yield Finding(Grade.PROBLEM, "wildcards", "the broker takes no wildcard subscriptions: factoryd needs them")
    if "AssignedClientIdentifier" in connack:
        text = "the broker changes client ids here: use a listener without use_username_as_clientid for factoryd"
        yield Finding(Grade.PROBLEM, "client id", text)


def _strangers(seen: Seen) -> Finding:
    if seen.lets_strangers_in:
        return Finding(Grade.PROBLEM, "allow_anonymous", "anybody may connect: set allow_anonymous false")
    return Finding(Grade.GOOD, "allow_anonymous", "false")


def _transport(settings: MqttSettings) -> Iterator[Finding]:
    assert settings.url is not None, "a connection was made with it"
    url = urlsplit(settings.url.get_secret_value())
    if url.scheme == "mqtt" and url.hostname not in LOOPBACK:
        yield Finding(Grade.WARNING, "tls", "our password crosses the network in clear: use mqtts://")


def _drops(seen: Seen) -> Iterator[Finding]:
    dropped = seen.sys.get(SYS[1], "")
    if dropped.isdigit() and int(dropped) > 0:
        text = f"{dropped} since the broker's start: a queue was full; look at max_queued_messages and at factoryd status"
        yield Finding(Grade.WARNING, "messages dropped", text)
