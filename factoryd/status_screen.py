"""The live status of `make demo`: one screen that redraws itself on a terminal, plain lines elsewhere."""

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from factoryd.safe_text import printable
from factoryd.status_source import Snapshot

SCREEN_INTERVAL_S = 1.0
LINE_INTERVAL_S = 5.0
DETAIL_WIDTH = 200
LATE_S = 5.0

Produce = Callable[[], Awaitable[Snapshot]]


async def run_status_screen(produce: Produce, connect: Sequence[str], console: Console | None = None) -> None:
    """Shows the status until cancelled; the terminal is then as it was, with the last figures on it.

    Args:
        produce: makes the figures, e.g. a `StatusSource`.
        connect: lines that tell where to connect; printed once, unbroken, so that they can be copied.
        console: default: standard output.
    """
    console = console or Console(highlight=False)
    for line in connect:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        while True:
            console.print(status_line(await produce()), markup=False, highlight=False, soft_wrap=True)
            await asyncio.sleep(LINE_INTERVAL_S)
    console.print()
    with Live(status_table(await produce()), console=console, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(SCREEN_INTERVAL_S)
            live.update(status_table(await produce()), refresh=True)


def connect_lines(*, database_url: str | None, mqtt_url: str | None, http_url: str, topic: str) -> list[str]:
    """Returns commands to copy into a shell: see messages, read the database, read the metrics.

    Args:
        database_url: a person's account; None if unknown.
        mqtt_url: an account that may read all topics; None if unknown.
        http_url: of the metrics and health pages.
        topic: filter to watch, e.g. factory/#.
    """
    lines = []
    if mqtt_url:
        lines.append(f"messages  {_mosquitto_sub(mqtt_url, topic)}")
    if database_url:
        lines.append(f"database  {shlex.join(['psql', database_url])}")
    return [*lines, f"metrics   {shlex.join(['curl', f'{http_url}/metrics'])}"]


def status_line(snapshot: Snapshot) -> str:
    """Returns the most important figures as one line of text."""
    devices = snapshot.devices
    parts = [
        f"{snapshot.at:%H:%M:%S}Z {snapshot.state}",
        f"{snapshot.messages_per_s:,.0f} messages/s",
        f"{snapshot.readings_per_s:,.0f} readings/s",
        f"stored {snapshot.stored:,}",
        f"lag {snapshot.lag_s:.1f} s",
        f"unacknowledged {snapshot.unacknowledged:,}",
        f"online {devices.get('online', 0)}/{sum(devices.values())}",
        f"error {devices.get('error', 0)}",
        f"missing {snapshot.missing:,}",
        f"quarantined {sum(snapshot.quarantined.values()):,}",
        f"alerts {sum(snapshot.alerts.values()):,}",
    ]
    if snapshot.database_error:
        parts.append(printable(snapshot.database_error, DETAIL_WIDTH))
    return " | ".join(parts)


def status_table(snapshot: Snapshot) -> RenderableType:
    """Returns the screen."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("factoryd", _state(snapshot)),
        ("rates", f"{snapshot.messages_per_s:,.0f} messages/s   {snapshot.readings_per_s:,.0f} readings/s"),
        ("stored", f"{snapshot.stored:,} readings"),
        ("lag", _lag(snapshot)),
        ("devices", _devices(snapshot)),
        ("missing", _warn(f"{snapshot.missing:,} sequence numbers", snapshot.missing > 0)),
        ("alerts", _alerts(snapshot)),
        ("newest", _last_alert(snapshot)),
        ("quarantined", _quarantined(snapshot)),
        ("last", _last_quarantined(snapshot)),
        ("database", _database(snapshot)),
    ):
        table.add_row(name, value)
    return table


def _mosquitto_sub(url: str, topic: str) -> str:
    parts = urlsplit(url)
    command = ["mosquitto_sub", "-h", parts.hostname or "localhost", "-p", str(parts.port or 1883)]
    if parts.username:
        command += ["-u", unquote(parts.username)]
    if parts.password:
        command += ["-P", unquote(parts.password)]
    return shlex.join([*command, "-v", "-t", topic])


def _state(snapshot: Snapshot) -> Text:
    up = timedelta(seconds=int(snapshot.uptime.total_seconds()))
    return Text.assemble(
        _warn(snapshot.state, snapshot.state != "active", fine="green"), f"   up {up}   {snapshot.at:%H:%M:%S} UTC"
    )


def _lag(snapshot: Snapshot) -> Text:
    figures = f"   {snapshot.unacknowledged:,} readings unacknowledged   {snapshot.batch_readings:,.0f} per batch"
    return Text.assemble(_warn(f"{snapshot.lag_s:.1f} s", snapshot.lag_s > LATE_S), figures)


def _devices(snapshot: Snapshot) -> Text:
    online, offline, error = (snapshot.devices.get(status, 0) for status in ("online", "offline", "error"))
    total = sum(snapshot.devices.values())
    return Text.assemble(f"{online} online   {offline} offline   ", _warn(f"{error} error", error > 0), f"   of {total}")


def _alerts(snapshot: Snapshot) -> Text:
    counts = "   ".join(f"{count:,} {severity}" for severity, count in snapshot.alerts.items())
    return _warn(f"{counts} open" if counts else "none open", "critical" in snapshot.alerts)


def _last_alert(snapshot: Snapshot) -> Text:
    last = snapshot.last_alert
    return Text(f"{last.status}   {last.severity}   {printable(last.message, DETAIL_WIDTH)}" if last else "no alert yet")


def _quarantined(snapshot: Snapshot) -> str:
    counts = sorted(snapshot.quarantined.items(), key=lambda item: -item[1])
    total = f"{sum(snapshot.quarantined.values()):,} readings"
    return "   ".join([total, *(f"{reason} {count:,}" for reason, count in counts)])


def _last_quarantined(snapshot: Snapshot) -> Text:
    last = snapshot.last_quarantined
    if last is None:
        return Text("nothing quarantined")
    device = printable(last.device, 40) if last.device else "unknown sender"
    # A Text of its own: what a device wrote is never read as markup.
    return Text(f"{last.received_at:%H:%M:%S} UTC   {device}   {last.reason}   {printable(last.detail, DETAIL_WIDTH)}")


def _database(snapshot: Snapshot) -> Text:
    error = snapshot.database_error
    return _warn(printable(error, DETAIL_WIDTH) if error else "reachable", error is not None)


def _warn(text: str, is_bad: bool, fine: str = "") -> Text:
    return Text(text, style="bold red" if is_bad else fine)
