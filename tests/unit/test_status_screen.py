"""The live status, as a terminal and as a pipe would show it."""

import asyncio
import io
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry
from rich.console import Console

from console.health import Health
from console.metrics import HealthCollector
from factoryd.status_screen import connect_lines, run_status_screen, status_line, status_table
from factoryd.status_source import Snapshot, StatusSource
from ingest.metrics import IngestMetrics
from storage.overview import LastAlert, LastQuarantined, Overview

NOW = datetime(2026, 5, 20, 12, 30, 5, tzinfo=UTC)
SNAPSHOT = Snapshot(
    at=NOW,
    uptime=timedelta(seconds=192.7),
    state="active",
    messages_per_s=1234.4,
    readings_per_s=2468,
    stored=123456,
    lag_s=0.03,
    unacknowledged=12,
    batch_readings=45.2,
    missing=3,
    quarantined={"bad_json": 5, "unknown_device": 7},
    devices={"online": 18, "offline": 1, "error": 1},
    alerts={"critical": 1, "warning": 2},
    last_alert=LastAlert(NOW, "critical", "active", "[bold]Press 7\x07: hot"),
    last_quarantined=LastQuarantined(NOW, "press-07", "bad_json", "[bold]not\x1b[2J markup[/bold]"),
)


def _screen(snapshot: Snapshot) -> str:
    console = Console(record=True, width=110, force_terminal=True, file=io.StringIO())
    console.print(status_table(snapshot))
    return console.export_text()


class TestScreen:
    def test_shows_everything(self) -> None:
        text = _screen(SNAPSHOT)
        assert [" ".join(line.split()) for line in text.splitlines()] == [
            "factoryd active up 0:03:12 12:30:05 UTC",
            "rates 1,234 messages/s 2,468 readings/s",
            "stored 123,456 readings",
            "lag 0.0 s 12 readings unacknowledged 45 per batch",
            "devices 18 online 1 offline 1 error of 20",
            "missing 3 sequence numbers",
            "alerts 1 critical 2 warning open",
            r"newest active critical [bold]Press 7\x07: hot",
            "quarantined 12 readings unknown_device 7 bad_json 5",
            r"last 12:30:05 UTC press-07 bad_json [bold]not\x1b[2J markup[/bold]",
            "database reachable",
        ]

    def test_of_an_idle_daemon(self) -> None:
        text = _screen(Snapshot(NOW))
        assert "nothing quarantined" in text
        assert "none open" in text
        assert "no alert yet" in text
        assert "0 online   0 offline   0 error   of 0" in text

    def test_a_database_that_is_away(self) -> None:
        snapshot = Snapshot(NOW, database_error="connection refused")
        assert "connection refused" in _screen(snapshot)
        assert status_line(snapshot).endswith("| connection refused")

    def test_one_line(self) -> None:
        assert status_line(SNAPSHOT) == (
            "12:30:05Z active | 1,234 messages/s | 2,468 readings/s | stored 123,456 | lag 0.0 s | unacknowledged 12"
            " | online 18/20 | error 1 | missing 3 | quarantined 12 | alerts 3"
        )


def test_commands_can_be_copied() -> None:
    lines = connect_lines(
        database_url="postgresql://factoryd_tools:pw@127.0.0.1:5433/factoryd?sslmode=disable&x=1",
        mqtt_url="mqtt://factoryd-tools:p%40w@127.0.0.1:1884",
        http_url="http://127.0.0.1:9464",
        topic="factory/#",
    )
    assert lines == [
        "messages  mosquitto_sub -h 127.0.0.1 -p 1884 -u factoryd-tools -P p@w -v -t 'factory/#'",
        "database  psql 'postgresql://factoryd_tools:pw@127.0.0.1:5433/factoryd?sslmode=disable&x=1'",
        "metrics   curl http://127.0.0.1:9464/metrics",
    ]
    assert len(connect_lines(database_url=None, mqtt_url=None, http_url="http://h:1", topic="x/#")) == 1


class TestRunning:
    async def _output(self, *, terminal: bool) -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=60, height=20)
        shown = asyncio.Event()

        async def produce() -> Snapshot:
            asyncio.get_running_loop().call_soon(shown.set)
            return SNAPSHOT

        task = asyncio.create_task(run_status_screen(produce, [f"database  {'x' * 200}"], console))
        await shown.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        return file.getvalue()

    async def test_leaves_the_terminal_as_it_was(self) -> None:
        output = await self._output(terminal=True)
        hide, show = "\x1b[?25l", "\x1b[?25h"
        assert output.count(hide) == output.count(show) == 1
        assert output.index(hide) < output.index("1,234 messages/s") < output.index(show)
        assert "x" * 200 in output, "lines to copy are not broken"

    async def test_plain_lines_in_a_pipe(self) -> None:
        output = await self._output(terminal=False)
        assert output.splitlines() == [f"database  {'x' * 200}", status_line(SNAPSHOT)]
        assert "\x1b" not in output


class TestSource:
    async def test_from_metrics_and_overview(self) -> None:
        registry, health, now = CollectorRegistry(), Health(), NOW
        metrics = IngestMetrics(registry)
        HealthCollector(registry, health)
        overview = Overview({"online": 2}, SNAPSHOT.last_quarantined)

        async def load() -> Overview:
            return overview

        source = StatusSource(registry.collect, load, lambda: now)
        first = await source()
        assert (first.state, first.messages_per_s, first.quarantined, first.devices) == ("waiting", 0, {}, {"online": 2})
        health.leadership_changed("active")
        metrics.messages.inc(50)
        metrics.received.inc(100)
        metrics.readings.labels("stored").inc(97)
        metrics.quarantined.labels("bad_json").inc(3)
        metrics.missing.inc(5)
        metrics.filled.inc(1)
        metrics.lag.set(1.5)
        metrics.in_flight.set(4)
        for size in (40, 60):
            metrics.batch_readings.observe(size)
        now = NOW + timedelta(seconds=2)
        assert await source() == Snapshot(
            at=now,
            uptime=timedelta(seconds=2),
            state="active",
            messages_per_s=25,
            readings_per_s=50,
            stored=97,
            lag_s=1.5,
            unacknowledged=4,
            batch_readings=50,
            missing=4,
            quarantined={"bad_json": 3},
            devices={"online": 2},
            last_quarantined=SNAPSHOT.last_quarantined,
        )

    async def test_keeps_the_last_overview_while_the_database_is_away(self) -> None:
        answers: list[Overview | None] = [Overview({"online": 2}), None]

        async def load() -> Overview:
            if (answer := answers.pop(0)) is None:
                raise ConnectionError("refused")
            return answer

        source = StatusSource(CollectorRegistry().collect, load, lambda: NOW)
        await source()
        snapshot = await source()
        assert (snapshot.devices, snapshot.database_error) == ({"online": 2}, "refused")
