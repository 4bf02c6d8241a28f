"""A real Alertmanager with a webhook that hears what it tells people, and our sender before it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from alerting.alert import Alert, Place, Severity, Status
from alerting.alertmanager import Alertmanager
from alerting.alertmanager_api import AlertmanagerApi
from alerting.alertmanager_metrics import AlertmanagerMetrics
from factoryd.embedded.directory import free_port
from tests.servers import alertmanager

WITHIN_S = 10
PLACE = Place(1, "press-7", "Press 7", "hall 2", units={"temperature": "°C"})


def crossing(number: int, **fields: Any) -> Alert:
    """Returns an alert as it is raised, and announced."""
    usual = Alert(
        id=number,
        device_id=1,
        kind="threshold",
        threshold_id=12,
        severity=Severity.WARNING,
        metric="temperature",
        topic="press-7/temperature/12",
        triggered_at=datetime.now(UTC),
        message="Press 7 (hall 2): temperature 84.5 °C above 80 °C",
        value=84.5,
        max_value=80.0,
        announced=True,
    )
    return replace(usual, **fields)


def resolved(alert: Alert) -> Alert:
    return replace(
        alert, version=alert.version + 1, status=Status.RESOLVED, resolved_at=datetime.now(UTC), resolution="recovered"
    )


class Network(httpx.AsyncHTTPTransport):
    """The real one; counts requests by whether they were answered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = {True: 0, False: 0}
        self._changed = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answered = False
        try:
            response = await super().handle_async_request(request)
            answered = True
            return response
        finally:
            self.count[answered] += 1
            self._changed.set()

    async def until(self, more: int, *, answered: bool = True) -> None:
        """Waits for so many more requests."""
        goal = self.count[answered] + more
        async with asyncio.timeout(WITHIN_S):
            while self.count[answered] < goal:
                self._changed.clear()
                await self._changed.wait()


class Plant:
    """A sender, the Alertmanager it sends to, and a person who is told."""

    def __init__(self, directory: Path, webhook_port: int) -> None:
        self._directory = directory
        self._webhook = f"http://127.0.0.1:{webhook_port}/"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.told: list[tuple[str, dict[str, Any]]] = []
        """(status, alert) of each notification, in order."""
        self._heard = asyncio.Event()
        self._numbers = count(1_000_000)
        self.open: dict[int, Alert] = {}
        self.network = Network()
        self.registry = CollectorRegistry()
        self.sender = self._sender(self.url)

    def _sender(self, url: str) -> Alertmanager:
        return Alertmanager(
            AlertmanagerApi(url, self.network),
            "factory",
            lambda: [(alert, PLACE) for alert in self.open.values()],
            lambda: datetime.now(UTC),
            AlertmanagerMetrics(self.registry),
        )

    @contextmanager
    def server(self, *options: str) -> Iterator[None]:
        with alertmanager(self._directory, self.port, self._webhook, *options):
            yield

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sender.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def commit(self, *alerts: Alert) -> None:
        """As the book does: what is open is kept, and the sender is told."""
        for alert in alerts:
            self.open[alert.id] = alert
            if not alert.open:
                del self.open[alert.id]
        self.sender.note((alert, PLACE) for alert in alerts)

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of Alertmanager's webhook."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].splitlines()[0])
        body = json.loads(await reader.readexactly(length))
        self.told += [(alert["status"], alert) for alert in body["alerts"]]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        self._heard.set()

    def of(self, number: int) -> list[str]:
        """Returns what people were told of one alert."""
        return [status for status, alert in self.told if alert["labels"]["alert_id"] == str(number)]

    async def until_told(self, number: int, *statuses: str) -> dict[str, Any]:
        """Waits until people were told exactly this of an alert, and returns it as it was last told."""
        await self.until_heard(lambda: len(self.of(number)) >= len(statuses))
        assert self.of(number) == list(statuses)
        found = [alert for _, alert in self.told if alert["labels"]["alert_id"] == str(number)]
        return found[-1]

    async def until_heard(self, condition: Callable[[], bool]) -> None:
        """Waits for what notifications bring about."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not condition():
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise AssertionError(f"told: {self.told}") from None

    async def until_all_is_said(self) -> None:
        """A later alert has been told of: nothing more comes of the earlier ones, and Alertmanager has noted what it said."""
        number = next(self._numbers)
        self.commit(crossing(number))
        await self.until_told(number, "firing")

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.request(method, f"{self.url}/api/v2/{path}", **options)
            return response.raise_for_status().json()

    def metric(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(f"factoryd_alertmanager_{name}", labels)
        assert value is not None
        return value
