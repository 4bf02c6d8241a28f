"""`factoryd device decode`: explains a payload offline, by the daemon's own rules."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.payload_source import decode_as_daemon, route_of
from factoryd.commands.payload_text import payload_text
from factoryd.commands.tables import Output, OutputOption, print_rows, shown
from factoryd.exit_codes import ExitCode
from ingest.decoding import Decoded
from ingest.reading import METRICS, Sample
from storage.device_fields import read_fields
from storage.refusals import InvalidInput

COLUMNS = {"place": "#", "result": "RESULT", "device": "DEVICE", "time": "TIME", "values": "VALUES", "detail": "DETAIL"}


def decode(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The payload; default: standard input.")] = None,
    device: Annotated[str | None, typer.Option(metavar="ID", help="The device that sent it.")] = None,
    topic: Annotated[str | None, typer.Option(help="The topic it was published to: says device and layout.")] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="The [[ingest.source]] whose layout it has.")] = None,
    content_type: Annotated[str | None, typer.Option(metavar="TYPE", help="Its MQTT 5 Content Type, if it has one.")] = None,
    timezone: Annotated[str | None, typer.Option(metavar="ZONE", help="The device's zone, for times without offset.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Explains what the daemon would make of a payload, were it received now. Needs neither broker nor database.

    Exit code 1 if anything of it would be quarantined.
    """
    settings = settings_of(ctx)
    route = route_of(settings, device=device, topic=topic, source=source)
    zone = read_fields({"timezone": timezone}).get("timezone")
    payload = _read(file)
    decoded = decode_as_daemon(settings, route, payload, content_type, ZoneInfo(zone) if zone else None, datetime.now(UTC))
    print_rows(list(explain(decoded, route.device)), COLUMNS, output, nothing="nothing in it")
    for note in notes_on(decoded):
        typer.echo(f"note: {note}", err=True)
    if decoded.rejected:
        raise typer.Exit(ExitCode.FAILED)


def explain(decoded: Decoded, device: str) -> Iterator[dict[str, Any]]:
    """Yields one row per reading: first what would be stored, then what would be quarantined."""
    for sample in decoded.samples:
        values = values_of(sample)
        said = " ".join(f"{name}={shown(value)}" for name, value in values.items())
        yield {
            "place": sample.index,
            "result": "reading",
            "device": sample.device or device or None,
            "time": time_of(sample),
            "recorded_at": sample.recorded_at,
            "values": said,
            "columns": {name: values[name] for name in METRICS if name in values},
            "extra": sample.extra,
            "seq": sample.seq,
            "boot_id": sample.boot_id,
            "reason": None,
            "detail": _numbered(sample),
        }
    for rejected in decoded.rejected:
        empty = dict.fromkeys(("place", "time", "recorded_at", "columns", "extra", "seq", "boot_id"))
        text = payload_text(rejected.payload)[1]
        row = {"result": "rejected", "device": device or None, "reason": rejected.reason.value, "values": text[:200]}
        yield {**empty, **row, "detail": f"{rejected.reason}: {rejected.detail}"}


def values_of(sample: Sample) -> dict[str, Any]:
    """Returns all that a reading says by name, columns first."""
    columns = {name: getattr(sample, name) for name in METRICS}
    return {name: value for name, value in columns.items() if value is not None} | dict(sample.extra or {})


def time_of(sample: Sample) -> str:
    """Returns in words which time a reading would be stored at."""
    if sample.recorded_at is not None:
        return f"{sample.recorded_at:%Y-%m-%d %H:%M:%S.%f}Z"
    if sample.before is None:
        return "time of receipt"
    seconds = sample.before.total_seconds()
    return f"time of receipt less {seconds:g} s" if seconds else "time of receipt"


def notes_on(decoded: Decoded) -> Iterator[str]:
    """Yields what else an installer should know."""
    if decoded.clock_unset:
        yield "its clock is not set (before 2020): the newest reading gets the time of receipt, the others keep their distance"
    if decoded.clock_ahead:
        yield "its clock is ahead of ours by more than ingest.max_clock_skew_s: stored at the time of receipt"
    if decoded.ignored:
        yield f"{decoded.ignored} values are no numbers and would be ignored"


def _numbered(sample: Sample) -> str:
    if sample.seq is None:
        return ""
    return f"seq {sample.seq}" + (f" of boot {sample.boot_id}" if sample.boot_id is not None else "")


def _read(file: Path | None) -> bytes:
    if file is None:
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read: {error.strerror or error}") from error
