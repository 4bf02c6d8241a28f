"""The whole daemon and a real Alertmanager."""

from pathlib import Path

import httpx

from factoryd.embedded.directory import free_port
from tests.e2e.alarms import listening, reading, threshold
from tests.e2e.conftest import Plant, telemetry, until
from tests.servers import alertmanager


async def test_alertmanager_is_told(plant: Plant, tmp_path: Path) -> None:
    await plant.register("press-9")
    await threshold(plant, "press-9", max_value=80)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with alertmanager(tmp_path, port, "http://127.0.0.1:9/"):
        async with (
            listening(plant) as ears,
            plant.client() as client,
            plant.running(alerting={"alertmanager_url": url}) as running,
            httpx.AsyncClient(trust_env=False) as asking,
        ):
            await client.publish(*telemetry("press-9", reading(92.4)))
            (raised,) = await ears.until(1)
            await until(lambda: running.count("alertmanager_sent_total") == 1)
            (known,) = (await asking.get(f"{url}/api/v2/alerts")).json()
            assert known["labels"]["alert_id"] == str(raised.body["alert_id"])
            await client.publish(*telemetry("press-9", reading(70.0)))
            await ears.until(2)
            await until(lambda: running.count("alertmanager_sent_total") == 2)
            assert (await asking.get(f"{url}/api/v2/alerts")).json() == []
