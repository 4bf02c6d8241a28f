"""The yardstick for receiving: same codec, same session, acknowledge and discard. `python -m bench.null_subscriber …`."""

import argparse
import asyncio
import json
import statistics
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.settings import LogSettings, MqttSettings
from factoryd.logs import configure_logging
from mqtt.connection import Deliveries, acknowledge_all
from mqtt.metrics import ReceiverMetrics
from mqtt.receiver import Receiver
from mqtt.session import Subscription
from mqtt.topics import telemetry_filter

LONGEST_S = 300.0


async def discard(url: str, client_id: str, root: str, count: int, *, timed: bool = False) -> dict[str, float]:
    """Receives `count` messages; returns epoch seconds of connect and last message, our CPU seconds, and the median delay."""
    done = asyncio.Event()
    received = 0

    delays: list[float] = []

    def deliver(deliveries: Deliveries) -> None:
        nonlocal received
        received += len(deliveries.publishes)
        acknowledge_all([deliveries])
        if timed:
            stated = [json.loads(publish.payload)["recorded_at"] for publish in deliveries.publishes]
            delays.extend((deliveries.received_at - datetime.fromisoformat(moment)).total_seconds() for moment in stated)
        if received >= count:
            done.set()

    receiver = Receiver(
        MqttSettings(url=SecretStr(url), root=root),
        name="telemetry",
        client_id=client_id,
        subscriptions=(Subscription(telemetry_filter(root)),),
        deliver=deliver,
        clock=lambda: datetime.now(UTC),
        metrics=ReceiverMetrics(CollectorRegistry()),
    )
    connected, cpu = time.time(), time.process_time()
    running = asyncio.create_task(receiver.run())
    await receiver.ready.wait()
    print("ready", flush=True)
    async with asyncio.timeout(LONGEST_S):  # a bench that failed must leave nobody waiting
        await done.wait()
    ended = time.time()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    delay = statistics.median(delays) if delays else 0.0
    return {"connected": connected, "ended": ended, "cpu": time.process_time() - cpu, "delay_s": delay}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--root", default="factory")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--timed", action="store_true", help="also measure the delay since recorded_at")
    options = parser.parse_args()
    configure_logging(LogSettings())
    run = discard(options.url, options.client_id, options.root, options.count, timed=options.timed)
    print(json.dumps(asyncio.run(run)), flush=True)


if __name__ == "__main__":
    main()
