"""Devices at work on their updates, a process of its own: reports at a steady pace, then one JSON line."""

import argparse
import asyncio
import json
import time
from dataclasses import asdict

import mqtt5

from bench.frames import ota_device
from bench.publisher import Published, Wire

CHUNK_S = 0.005


def report_frame(root: str, number: int, deployment_id: int, seq: int, packet_id: int) -> bytes:
    """Returns the packet of one report, about 110 bytes: each says more than the one before."""
    payload = (
        f'{{"deployment_id":{deployment_id},"attempt":1,"seq":{seq},"phase":"downloading",'
        f'"progress_percent":{min(99, seq)},"bytes_done":{seq * 16384}}}'
    )
    topic = f"{root}/devices/{ota_device(number)}/ota/progress"
    return mqtt5.PublishPacket(topic, payload.encode(), qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id).write()


async def report_paced(url: str, root: str, first_id: int, devices: int, every_s: float, rounds: int) -> Published:
    """Each device reports once in `every_s`, `rounds` times."""
    total = devices * rounds
    frames = [
        report_frame(root, number % devices, first_id + number % devices, 1 + number // devices, number % 65_000 + 1)
        for number in range(total)
    ]
    wire = await Wire.connect(url)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()

    async def read() -> None:
        while wire.acknowledged < total:
            await wire.count_pubacks()

    reading = asyncio.create_task(read())
    started, begin, sent = time.time(), loop.time(), 0
    while sent < total:
        due = min(total, int((loop.time() - begin) * devices / every_s))
        if due > sent:
            await wire.write(b"".join(frames[sent:due]))
            sent = due
        await asyncio.sleep(CHUNK_S)
    await reading
    return Published(started, time.time(), total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--root", default="factory")
    parser.add_argument("--first-id", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, required=True)
    given = parser.parse_args()
    published = asyncio.run(report_paced(given.url, given.root, given.first_id, given.devices, given.every, given.rounds))
    print(json.dumps(asdict(published)), flush=True)


if __name__ == "__main__":
    main()
