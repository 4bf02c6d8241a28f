"""Messages as they go over the wire, encoded beforehand: the generator must cost as little as it can."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import mqtt5

DEVICES = 1_000
HOT = 95.0
"""A temperature beyond the limit of `bench.alerts`."""
SPACING = timedelta(microseconds=10)
"""Between the readings of one run; each of DEVICES devices reports every 10 ms of recorded time."""


def device(number: int) -> str:
    return f"bench-{number % DEVICES:04d}"


def storm_device(number: int) -> str:
    return f"storm-{number:05d}"


def ota_device(number: int) -> str:
    return f"ota-{number:05d}"


def reading(moment: datetime, number: int, temperature: float | None = None) -> str:
    """About 150 bytes: the six metrics and a time."""
    if temperature is None:
        temperature = 20 + number % 600 / 10
    stamp = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return (
        f'{{"recorded_at":"{stamp}","temperature":{temperature},"humidity":40.1,"pressure":101.3,'
        f'"vibration":0.02,"power_consumption":{1500 + number % 100 / 2},"rpm":{1400 + number % 90}}}'
    )


def publish_frame(root: str, name: str, payload: str, packet_id: int) -> bytes:
    topic = f"{root}/devices/{name}/telemetry"
    return mqtt5.PublishPacket(topic, payload.encode(), qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id).write()


def frames(root: str, start: datetime, count: int, *, per_message: int = 1, repeat_every: int = 0) -> Iterator[bytes]:
    """Yields `count` QoS 1 PUBLISH packets.

    Args:
        root: first levels of the topics.
        start: time of the first reading.
        count: messages.
        per_message: readings in each message; more than one make an array.
        repeat_every: every so many messages, one repeats the message of DEVICES before (the same device).
    """
    for number in range(count):
        source = number - DEVICES if repeat_every and number % repeat_every == 0 and number >= DEVICES else number
        moments = [start + SPACING * (source * per_message + place) for place in range(per_message)]
        texts = [reading(moment, source) for moment in moments]
        payload = texts[0] if per_message == 1 else f"[{','.join(texts)}]"
        yield publish_frame(root, device(source), payload, number % 65_000 + 1)
