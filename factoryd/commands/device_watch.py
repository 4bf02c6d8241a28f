"""`factoryd device watch`: each message of a device, live, and what the daemon made of it.

The broker says what was sent, the database what became of it; in between the same code decodes as in the daemon.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from config.loading import ConfigError
from config.settings import Settings
from factoryd.commands.device_decode import notes_on, values_of
from factoryd.commands.invocation import settings_of
from factoryd.commands.message_fate import Awaited, Facts, Fate, Memory, awaited_parts
from factoryd.commands.payload_source import decode_as_daemon, route_of, topics_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, plain, shown
from ingest.decoding import MAX_DEPTH
from ingest.payload import BadPayload, read_parts
from ingest.reading import Sample
from mqtt.listener import Heard, Listener, open_listener
from storage.device_fields import check_device_id
from storage.fates import SLACK, Fates, Mark, open_fates
from storage.refusals import InvalidInput

PATIENCE_S = 5.0
POLL_S = 0.05

Say = Callable[[dict[str, Any]], None]


def watch(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="ID", help="Device id; it need not be registered yet.")],
    count: Annotated[int | None, typer.Option(min=1, help="End after this many messages.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows each message of a device as it comes: stored, merged, duplicate, rejected and why. Ctrl-C ends it."""
    settings = settings_of(ctx)
    check_device_id(device)
    if output is Output.CSV:
        raise InvalidInput("-o csv: a stream is no list; use table or json (one object per line)")
    if settings.mqtt.url is None:
        raise ConfigError("mqtt.url: not set; give it in the settings file or in FACTORYD_MQTT__URL")
    say = _say_json if output in JSON_FORMS else _say_line
    try:
        asyncio.run(watch_device(settings, device, say, count, lambda text: typer.echo(text, err=True)))
    except KeyboardInterrupt:
        return


async def watch_device(settings: Settings, device: str, say: Say, count: int | None, note: Callable[[str], None]) -> None:
    """Listens until `count` messages were told of, or for ever.

    Raises:
        BrokerUnavailable: the connection failed or ended.
        DatabaseUnavailable: likewise.
    """
    async with open_fates(settings.database) as fates, open_listener(settings.mqtt) as listener:
        watching = _Watch(settings, device, fates, say, note)
        await listener.subscribe(list(topics_of(settings, device)))
        await watching.run(listener, count)


class _Watch:
    def __init__(self, settings: Settings, device: str, fates: Fates, say: Say, note: Callable[[str], None]) -> None:
        self._settings = settings
        self._device = device
        self._fates = fates
        self._say = say
        self._note = note
        self._memory = Memory()

    async def run(self, listener: Listener, count: int | None) -> None:
        mark = await self._fates.mark()
        self._note(f"watching {self._device}; Ctrl-C ends it")
        told = 0
        async for heard in listener.messages():
            told += await self._tell(heard, mark)
            if count is not None and told >= count:
                return
            # While messages wait, what they did may be in the database already: the older mark is theirs, too.
            if not listener.waiting():
                newer = await self._fates.mark()
                mark = mark if listener.waiting() else newer

    async def _tell(self, heard: Heard, mark: Mark) -> bool:
        """Tells what became of a message; False if it is not of our device."""
        received_at = datetime.now(UTC)
        known = await self._fates.device(self._device)
        route = route_of(self._settings, device=self._device, topic=heard.topic, source=None)
        zone = ZoneInfo(known.timezone) if known and known.timezone else None
        decoded = decode_as_daemon(self._settings, route, heard.payload, heard.content_type, zone, received_at)
        if route.layout.device_field is not None:
            decoded.samples = [sample for sample in decoded.samples if sample.device == self._device]
        waiting = awaited_parts(decoded, heard.payload, _parts(heard))
        if not waiting:
            return False
        async for awaited, fate in self._fates_of(waiting, mark, known.number if known else None):
            self._say(_row(received_at, heard, awaited, fate))
        for text in notes_on(decoded):
            self._note(f"note: {text}")
        return True

    async def _fates_of(self, waiting: list[Awaited], mark: Mark, number: int | None) -> AsyncIterator[tuple[Awaited, Fate]]:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while waiting:
            # Asked before the facts: a sequence number that is noted, while no row shows, came before.
            noted = [await self._is_noted(awaited, number) for awaited in waiting]
            facts = await self._facts(waiting, mark, number)
            late = asyncio.get_running_loop().time() > deadline
            rest = []
            for awaited, known in zip(waiting, noted, strict=True):
                fate = self._memory.settle(awaited, facts) or _without_a_row(awaited, known, late)
                if fate is None:
                    rest.append(awaited)
                else:
                    yield awaited, fate
            waiting = rest
            if waiting:
                await asyncio.sleep(POLL_S)

    async def _is_noted(self, awaited: Awaited, number: int | None) -> bool:
        item = awaited.item
        if number is None or not isinstance(item, Sample) or item.recorded_at is not None:
            return False
        if item.seq is None or item.boot_id is None:
            return False
        return await self._fates.repeated(number, item.boot_id, item.seq)

    async def _facts(self, waiting: list[Awaited], mark: Mark, number: int | None) -> Facts:
        refused = await self._fates.refused(self._device, mark)
        if number is None:
            return Facts(refused=refused)
        samples = [awaited.item for awaited in waiting if isinstance(awaited.item, Sample)]
        moments = [sample.recorded_at for sample in samples if sample.recorded_at is not None]
        befores = [sample.before or timedelta() for sample in samples if sample.recorded_at is None]
        dated = await self._fates.dated(number, moments, mark) if moments else {}
        undated = await self._fates.undated(number, mark.at - SLACK - max(befores), mark) if befores else []
        return Facts(dated, undated, refused)


def _without_a_row(awaited: Awaited, noted: bool, late: bool) -> Fate | None:
    item = awaited.item
    if noted and isinstance(item, Sample):
        return Fate("duplicate", None, f"seq {item.seq} of boot {item.boot_id} came before")
    if not late:
        return None
    if isinstance(item, Sample):
        text = f"the database does not show it after {PATIENCE_S:g} s: is the daemon running? (factoryd status)"
        return Fate("unseen", item.recorded_at, text)
    return Fate("rejected", None, f"{item.reason}: {item.detail} (not seen in the quarantine: is the daemon running?)")


def _parts(heard: Heard) -> list[bytes]:
    try:
        parts = read_parts(heard.payload, heard.content_type, max_parts=1 << 30, max_depth=MAX_DEPTH + 2)
    except BadPayload:
        return []
    return [raw for _, raw in parts]


def _row(received_at: datetime, heard: Heard, awaited: Awaited, fate: Fate) -> dict[str, Any]:
    item = awaited.item
    return {
        "received_at": received_at,
        "result": fate.result,
        "recorded_at": fate.recorded_at,
        "values": values_of(item) if isinstance(item, Sample) else None,
        "detail": fate.detail,
        "topic": heard.topic,
        "qos": heard.qos,
    }


def _say_json(row: dict[str, Any]) -> None:
    typer.echo(json.dumps(row, default=plain, ensure_ascii=False))


def _say_line(row: dict[str, Any]) -> None:
    values = " ".join(f"{name}={shown(value)}" for name, value in (row["values"] or {}).items())
    time = f"{row['recorded_at']:%Y-%m-%d %H:%M:%S.%f}Z" if row["recorded_at"] else ""
    typer.echo("  ".join(_filled(f"{row['received_at']:%H:%M:%S}Z", f"{row['result']:9}", time, values, shown(row["detail"]))))


def _filled(*texts: str) -> Iterator[str]:
    return (text for text in texts if text)
