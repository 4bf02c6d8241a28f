"""An embedded service that dies is started again."""

import asyncio
import os
import signal
from pathlib import Path

import psycopg
from structlog.testing import capture_logs

from factoryd.embedded.mosquitto import EmbeddedMosquitto
from factoryd.embedded.postgres import EmbeddedPostgres
from factoryd.embedded.supervision import supervise
from tests.integration.plant import until
from tests.services import FORGETFUL


async def test_killed_services_come_back(tmp_path: Path) -> None:
    async with (
        EmbeddedPostgres(tmp_path / "postgres", settings=FORGETFUL) as postgres,
        EmbeddedMosquitto(tmp_path / "mosquitto") as broker,
    ):
        with capture_logs() as events:
            task = asyncio.create_task(supervise([postgres, broker]))
            for service in (postgres, broker):
                os.kill(service.pid, signal.SIGKILL)
            await until(lambda: len(events) == 2)
            os.kill(postgres.pid, signal.SIGKILL)
            await until(lambda: len(events) == 3)
            task.cancel()
            await asyncio.wait({task})
        psycopg.connect(postgres.url()).close()
        assert broker.alive
    told = [(event["event"], event["service"], event["restarts"]) for event in events]
    assert sorted(told) == [
        ("service_restarted", "mosquitto", 1),
        ("service_restarted", "postgres", 1),
        ("service_restarted", "postgres", 2),
    ]
