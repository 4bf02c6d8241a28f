"""Plays a recording as telemetry: at its own pace, faster or slower, or as fast as the broker acknowledges.

The file is streamed; what is in memory is the window of unacknowledged messages and one line of state per device.
"""

import asyncio
import codecs
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from mqtt import topics
from simulator.connection import MAX_IN_FLIGHT, Account, Broker, BrokerUnavailable, PublishRefused
from simulator.lane import Lane
from simulator.ledger import Acknowledged, Ledger
from simulator.machine import happens
from simulator.pace import Pace, shift
from simulator.reading import Encoding, Reading, encode
from simulator.recording import BadRow, Layout, RecordingError, Row, read_rows
from simulator.statistics import Statistics

log = structlog.get_logger(__name__)

KEPT_PROBLEMS = 20
"""Bad rows kept in the report and logged; the rest are only counted."""
BREATH_ROWS = 500
"""Other tasks get a turn at least this often, however many bad rows follow each other."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Everything `run_replay` needs."""

    broker: Broker
    file: Path
    layout: Layout
    text_encoding: str = "utf-8"
    speed: float = 1.0
    """Recorded seconds per second; 1 = its own pace, 0 = as fast as acknowledged."""
    longest_pause_s: float | None = None
    """Longer gaps in the recording are cut to this; None = kept."""
    shift_to_now: bool = False
    """Readings carry the time at which they are played; with speed 0 the recording ends now."""
    max_in_flight: int = MAX_IN_FLIGHT
    """Unacknowledged messages over all connections, 1 to 1000."""
    reconnect_max_s: float = 15.0
    ledger: Ledger | None = None


@dataclass(slots=True)
class ReplayReport:
    """What a replay did; `statistics` counts the messages, one per good row."""

    statistics: Statistics
    rows: int = 0
    """Good rows read."""
    bad_rows: int = 0
    first_bad_rows: list[BadRow] = field(default_factory=list)
    devices: dict[str, int] = field(default_factory=dict)
    """Good rows of each device."""


async def run_replay(
    plan: ReplayPlan, *, stop: asyncio.Event | None = None, started: Callable[[ReplayReport], None] | None = None
) -> ReplayReport:
    """Plays the recording and returns the report when the last message is acknowledged.

    Args:
        plan: what to play, and how.
        stop: set it to end early; what is in flight is still waited for while the connection holds.
        started: called once with the report, which grows while the replay runs.

    Raises:
        RecordingError: the file cannot be played as asked; see `recording`.
        BrokerUnavailable: the first connection failed; later failures are repeated.
        LookupError: a device has no account.
    """
    report = ReplayReport(Statistics())
    if started is not None:
        started(report)
    replay = _Replay(plan, report, stop or asyncio.Event())
    try:
        await replay.run()
    except ExceptionGroup as group:
        raise _first_cause(group) from group
    return report


class _Replay:
    def __init__(self, plan: ReplayPlan, report: ReplayReport, stop: asyncio.Event) -> None:
        if not 1 <= plan.max_in_flight <= 1000:
            raise RecordingError(f"max_in_flight {plan.max_in_flight} is not possible: give 1 to 1000")
        self._plan = plan
        self._report = report
        self._stop = stop
        self._pace = _pace(plan)
        self._offset = _offset_to_now(plan)
        self._window = asyncio.Semaphore(plan.max_in_flight)
        self._boot_id = secrets.token_hex(4)
        self._lanes: dict[Account | None, Lane] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as connections:
            closer = connections.create_task(self._close_on_stop(), name="replay stop")
            async with asyncio.TaskGroup() as deliveries:
                await self._play(connections, deliveries)
            closer.cancel()
            self._close()

    async def _play(self, connections: asyncio.TaskGroup, deliveries: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        started, started_at = loop.time(), datetime.now(UTC)
        for count, row in enumerate(_rows(self._plan)):
            if count % BREATH_ROWS == 0:
                await asyncio.sleep(0)
            if isinstance(row, BadRow):
                self._count_bad(row)
                continue
            due = self._pace.due(row.recorded_at)
            early_s = started + due.after_s - loop.time()
            if self._stop.is_set() or (early_s > 0.0 and await happens(self._stop, early_s)):
                return
            if self._plan.shift_to_now:
                moved = shift(started_at, due) if self._offset is None else row.recorded_at + self._offset
                row = replace(row, recorded_at=moved)  # noqa: PLW2901 - the same row at its new time
            await self._window.acquire()
            lane = self._lane(row.device, connections)
            deliveries.create_task(self._deliver(lane, self._reading(row)), name=f"row {row.line}")

    async def _deliver(self, lane: Lane, reading: Reading) -> None:
        statistics = self._report.statistics
        try:
            await lane.deliver(topics.telemetry(self._plan.broker.root, reading.device), encode([reading], Encoding.JSON))
        except PublishRefused as error:
            statistics.refused += 1
            self._note(error)
        except BrokerUnavailable as error:
            self._note(error)
        else:
            statistics.acknowledged += 1
            statistics.readings_acknowledged += 1
            if self._plan.ledger is not None:
                self._plan.ledger(Acknowledged(reading.device, reading.boot_id, reading.seq, reading.recorded_at))
        finally:
            self._window.release()

    def _reading(self, row: Row) -> Reading:
        report = self._report
        report.rows += 1
        report.statistics.readings += 1
        report.devices[row.device] = seq = report.devices.get(row.device, 0) + 1
        return Reading(row.device, self._boot_id, seq, row.recorded_at, row.values)

    def _lane(self, device: str, connections: asyncio.TaskGroup) -> Lane:
        account = self._plan.broker.account(device)
        if account not in self._lanes:
            lane = Lane(self._plan.broker, account, self._plan.reconnect_max_s, self._report.statistics)
            self._lanes[account] = lane
            connections.create_task(lane.run(), name=f"replay connection {len(self._lanes)}")
        return self._lanes[account]

    def _count_bad(self, row: BadRow) -> None:
        self._report.bad_rows += 1
        if len(self._report.first_bad_rows) < KEPT_PROBLEMS:
            self._report.first_bad_rows.append(row)
            log.warning("recording_row_skipped", line=row.line, reason=row.reason)

    async def _close_on_stop(self) -> None:
        await self._stop.wait()
        if await self._drained():
            return
        self._close()

    async def _drained(self) -> bool:
        """Waits for what is in flight, as long as one PUBACK may take; tells whether all of it arrived."""
        try:
            async with asyncio.timeout(self._plan.broker.timeout_s):
                for _ in range(self._plan.max_in_flight):
                    await self._window.acquire()
        except TimeoutError:
            return False
        return True

    def _close(self) -> None:
        for lane in self._lanes.values():
            lane.close()

    def _note(self, error: Exception) -> None:
        if self._report.statistics.last_error != str(error):
            log.warning("row_not_delivered", error=str(error))
        self._report.statistics.last_error = str(error)


def _rows(plan: ReplayPlan) -> Iterator[Row | BadRow]:
    """Streams the file; letters that do not fit its encoding become U+FFFD, so that only their own cells suffer."""
    try:
        codecs.lookup(plan.text_encoding)
    except LookupError as error:
        raise RecordingError(f"text encoding {plan.text_encoding!r} is not known: give one such as utf-8 or cp1252") from error
    try:
        with plan.file.open(encoding=plan.text_encoding, errors="replace", newline="") as lines:
            yield from read_rows(lines, plan.layout)
    except OSError as error:
        raise RecordingError(f"{plan.file}: cannot be read: {error.strerror or error}") from error


def _pace(plan: ReplayPlan) -> Pace:
    try:
        return Pace(plan.speed, plan.longest_pause_s)
    except ValueError as error:
        raise RecordingError(str(error)) from error


def _offset_to_now(plan: ReplayPlan) -> timedelta | None:
    """Without a pace only the end of the recording can be now: one pass over the file finds it."""
    if not plan.shift_to_now or plan.speed > 0.0:
        return None
    latest = max((row.recorded_at for row in _rows(plan) if isinstance(row, Row)), default=None)
    return None if latest is None else datetime.now(UTC) - latest


def _first_cause(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first_cause(first) if isinstance(first, ExceptionGroup) else first
