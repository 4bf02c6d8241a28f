"""An operator in the bench: hears every alert event and notes when. `python -m bench.alert_subscriber URL --count N`.

Prints `ready`, then one JSON line: by number of the alert [seconds from the crossing to its event, epoch seconds of the event].
"""

import argparse
import asyncio
import json
import time
from datetime import datetime
from urllib.parse import unquote, urlsplit

import mqtt5

LONGEST_S = 120.0


async def hear(url: str, root: str, count: int) -> list[tuple[float, float]]:
    """Returns (delay, moment) of each raised alert, in order of arrival."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    user, password = unquote(parts.username or ""), unquote(parts.password or "").encode()
    writer.write(mqtt5.ConnectPacket(f"bench-ear-{time.time_ns()}", clean_start=True, username=user, password=password).write())
    wanted = mqtt5.TopicFilter(f"{root}/alert-events/#", max_qos=mqtt5.QoS.AT_LEAST_ONCE)
    writer.write(mqtt5.SubscribePacket(1, [wanted]).write())
    heard: list[tuple[float, float]] = []
    rest = b""
    while len(heard) < count:
        data = rest + await reader.read(1 << 18)
        now = time.time()
        assert len(data) > len(rest), "the broker closed the connection"
        position = 0
        while position < len(data):
            try:
                packet, size = mqtt5.read(memoryview(data)[position:])
            except IndexError:
                break
            position += size
            if isinstance(packet, mqtt5.SubAckPacket):
                print("ready", flush=True)
            elif isinstance(packet, mqtt5.PublishPacket):
                writer.write(mqtt5.PubAckPacket(packet.packet_id or 0).write())
                body = json.loads(packet.payload or b"{}")
                if body.get("status") == "active":
                    heard.append((now - datetime.fromisoformat(body["triggered_at"]).timestamp(), now))
        rest = data[position:]
    writer.close()
    return heard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--root", default="factory")
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    heard = asyncio.run(asyncio.wait_for(hear(options.url, options.root, options.count), LONGEST_S))
    print(json.dumps(heard), flush=True)


if __name__ == "__main__":
    main()
