"""`factoryd simulate`: a factory of simulated machines, or a recording, as real MQTT clients."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from config.settings import Settings
from factoryd.commands.invocation import settings_of
from factoryd.commands.service import run_until_signalled
from factoryd.commands.simulated_accounts import broker_of, register_all
from factoryd.commands.simulation_run import replay_until, simulate_until
from factoryd.logs import configure_logging
from simulator.connection import Broker
from simulator.devices import SimulatedDevice, plan_devices
from simulator.factory import PlannedFault, SimulationPlan
from simulator.faults import Fault
from simulator.ledger import FileLedger
from simulator.outages import Outages
from simulator.recording import Layout, RecordingError, Row, parse_mappings, read_rows
from simulator.replay import ReplayPlan
from storage.refusals import InvalidInput


def simulate(
    ctx: typer.Context,
    machines: Annotated[int, typer.Option(min=1, max=10_000, help="MQTT clients.")] = 20,
    interval: Annotated[float, typer.Option(min=0.001, help="Seconds between two readings of a device.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same machines.")] = 1,
    prefix: Annotated[str, typer.Option(help='Put before every device id, e.g. "hall-2.".')] = "",
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds; default: until stopped.")] = None,
    outages: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=1, help="Machines go away now and then, this long apart on average.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="DEVICE=FAULT[@SECONDS]", help=f"A fault after that time: {', '.join(Fault)}. Repeatable."),
    ] = None,
    register: Annotated[bool, typer.Option("--register", help="Add the devices to the database, with credentials.")] = False,
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="Default: MQTT_DEVICES_URL or MQTT_TOOLS_URL, else mqtt.url.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(metavar="FILE", help="Note every acknowledged reading here.")] = None,
    recording: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE.csv", exists=True, dir_okay=False, help="Play this instead.")
    ] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", metavar="COLUMN=METRIC", help="Replay: repeatable.")] = None,
    device: Annotated[str | None, typer.Option(metavar="ID", help="Replay: all rows are of this device.")] = None,
    device_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Replay: the device is in this column.")] = None,
    time_column: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Replay: repeat it for a date and a time column.")
    ] = None,
    time_format: Annotated[str | None, typer.Option(metavar="STRPTIME", help="Replay: default ISO 8601 or epoch.")] = None,
    timezone: Annotated[str | None, typer.Option(metavar="ZONE", help="Replay: of local times.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Replay: default: found out.")] = None,
    decimal_comma: Annotated[bool, typer.Option("--decimal-comma", help="Replay: 1.234,5 is a number.")] = False,
    encoding: Annotated[str, typer.Option(help="Replay: of the file.")] = "utf-8",
    speed: Annotated[float, typer.Option(min=0, help="Replay: times its own pace; 0 = as fast as acknowledged.")] = 1.0,
    longest_pause: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Replay: cut gaps to this.")] = None,
    shift_to_now: Annotated[bool, typer.Option("--shift-to-now", help="Replay: readings carry the present time.")] = False,
) -> None:
    """Plays a simulated factory, or with --replay a recording, until it ends or Ctrl-C.

    With --register each device gets its own account; the embedded broker lets them in by itself.
    """
    settings = settings_of(ctx)
    configure_logging(settings.log.model_copy(update={"level": "error"}))
    with ExitStack() as stack:
        note = stack.enter_context(FileLedger(ledger)) if ledger else None
        if recording is None:
            devices = plan_devices(machines, interval, prefix)
            plan = SimulationPlan(
                _broker(settings, broker, devices if register else None),
                devices,
                seed=seed,
                duration_s=duration,
                outages=Outages(outages) if outages else None,
                ledger=note,
                faults=tuple(map(planned_fault, fault or ())),
            )
            asyncio.run(run_until_signalled(lambda stop: simulate_until(plan, stop)))
            return
        layout = Layout(
            parse_mappings(map_ or []),
            device=device,
            device_column=device_column,
            time_columns=tuple(time_column or ()),
            time_format=time_format,
            timezone=timezone,
            delimiter=delimiter,
            decimal_comma=decimal_comma,
        )
        replay = ReplayPlan(
            _broker(settings, broker, tuple(_recorded(recording, layout, encoding)) if register else None),
            recording,
            layout,
            text_encoding=encoding,
            speed=speed,
            longest_pause_s=longest_pause,
            shift_to_now=shift_to_now,
            ledger=note,
        )
        asyncio.run(run_until_signalled(lambda stop: replay_until(replay, stop)))


def planned_fault(text: str) -> PlannedFault:
    """Returns the fault that `DEVICE=FAULT[@SECONDS]` names.

    Raises:
        InvalidInput: it cannot be read.
    """
    rest, _, after = text.rpartition("@") if "@" in text else (text, "", "0")
    device, divider, name = rest.rpartition("=")
    try:
        if not divider:
            raise ValueError(text)
        return PlannedFault(float(after), device, Fault(name))
    except ValueError as error:
        raise InvalidInput(f"--fault {text!r}: write DEVICE=FAULT[@SECONDS]; faults are {', '.join(Fault)}") from error


def _broker(settings: Settings, url: str | None, to_register: tuple[SimulatedDevice, ...] | None) -> Broker:
    return broker_of(settings, url, None if to_register is None else register_all(settings, to_register))


def _recorded(file: Path, layout: Layout, encoding: str) -> Iterator[SimulatedDevice]:
    """Yields the devices of a recording: one pass over it."""
    if layout.device is not None:
        yield _replayed(layout.device)
        return
    try:
        with file.open(encoding=encoding, errors="replace", newline="") as lines:
            names = {row.device for row in read_rows(lines, layout) if isinstance(row, Row)}
    except LookupError as error:
        raise RecordingError(f"text encoding {encoding!r} is not known: give one such as utf-8 or cp1252") from error
    yield from map(_replayed, sorted(names))


def _replayed(name: str) -> SimulatedDevice:
    return SimulatedDevice(name, "recording", "", 0.0)
