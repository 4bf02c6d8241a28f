"""`factoryd device`: the registry."""

from dataclasses import asdict
from typing import Annotated

import typer

from factoryd.commands import device_access, device_decode, device_gaps, device_import, device_watch
from factoryd.commands.invocation import settings_of
from factoryd.commands.reserved_names import refuse_reserved
from factoryd.commands.tables import Output, OutputOption, print_one, print_rows
from storage.device_admin import add_device, approve_device, edit_device, retire_device
from storage.device_fields import DeviceFields, read_fields
from storage.device_views import DeviceView, get_device, list_devices
from storage.refusals import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Register, watch and look after devices.")

DeviceId = Annotated[str, typer.Argument(metavar="ID", help="Device id, as in its topics.")]
Name = Annotated[str | None, typer.Option(help="What people call it; default: its id.")]
Type = Annotated[str | None, typer.Option("--type", help="sensor, gateway, press …; default: unknown.")]
Location = Annotated[str | None, typer.Option(help="Where it stands.")]
Interval = Annotated[
    str | None, typer.Option(metavar="SECONDS", help="Time between its messages: silent for three of them, it is offline.")
]
Timezone = Annotated[str | None, typer.Option(metavar="ZONE", help="IANA zone of local times it sends, e.g. Europe/Berlin.")]
Via = Annotated[str | None, typer.Option(metavar="ID", help="Its gateway, which may speak for it.")]
Owner = Annotated[str | None, typer.Option(metavar="LOGIN", help="The user it belongs to.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="Anything else, as a JSON object.")]

COLUMNS = {
    "device_id": "DEVICE",
    "name": "NAME",
    "type": "TYPE",
    "location": "LOCATION",
    "status": "STATUS",
    "last_seen": "LAST SEEN",
    "last_reading": "LAST READING",
    "via": "VIA",
    "owner": "OWNER",
    "notes": "NOTES",
}


@app.command()
def add(
    ctx: typer.Context,
    device: DeviceId,
    name: Name = None,
    type_: Type = None,
    location: Location = None,
    interval: Interval = None,
    timezone: Timezone = None,
    via: Via = None,
    owner: Owner = None,
    metadata: Metadata = None,
) -> None:
    """Registers a device. Give it credentials next: factoryd device credentials ID."""
    settings = settings_of(ctx)
    refuse_reserved(settings, [device])
    add_device(settings.database, device, _fields(name, type_, location, interval, timezone, via, owner, metadata))
    typer.echo(f"device {device} registered")


@app.command("list")
def list_(
    ctx: typer.Context,
    status: Annotated[str | None, typer.Option(metavar="online|offline|error", help="Only these.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    via: Annotated[str | None, typer.Option(metavar="ID", help="Only those behind this gateway.")] = None,
    owner: Annotated[str | None, typer.Option(metavar="LOGIN", help="Only of this user.")] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Retired ones, too.")] = False,
    after: Annotated[str, typer.Option(metavar="ID", help="Go on after this device.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 1000,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists devices by id, a page at a time."""
    if status not in {None, "online", "offline", "error"}:
        raise InvalidInput(f"--status {status}: must be online, offline or error")
    views = list_devices(
        settings_of(ctx).database,
        after=after,
        limit=limit + 1,
        status=status,
        kind=type_,
        via=via,
        owner=owner,
        retired=retired,
    )
    rows = [{**asdict(view), "notes": ", ".join(notes_of(view))} for view in views[:limit]]
    print_rows(rows, COLUMNS, output, nothing="no devices; factoryd device add registers one")
    if len(views) > limit:
        typer.echo(f"more: --after {views[limit - 1].device_id}", err=True)


@app.command()
def show(ctx: typer.Context, device: DeviceId, output: OutputOption = Output.TABLE) -> None:
    """Shows all that is known of a device."""
    print_one(asdict(get_device(settings_of(ctx).database, device)), output)


@app.command()
def edit(
    ctx: typer.Context,
    device: DeviceId,
    name: Name = None,
    type_: Type = None,
    location: Location = None,
    interval: Interval = None,
    timezone: Timezone = None,
    via: Via = None,
    owner: Owner = None,
    metadata: Metadata = None,
    active: Annotated[bool, typer.Option("--active", help="Take a retired device back.")] = False,
) -> None:
    """Changes what is named, and nothing else. An empty value, as in --via "", takes it away."""
    fields = _fields(name, type_, location, interval, timezone, via, owner, metadata)
    if not fields and not active:
        raise InvalidInput("nothing to change: name at least one option, see factoryd device edit --help")
    edit_device(settings_of(ctx).database, device, fields, active=active)
    typer.echo(f"device {device} changed")


@app.command()
def approve(
    ctx: typer.Context,
    device: DeviceId,
    name: Name = None,
    type_: Type = None,
    location: Location = None,
    interval: Interval = None,
    timezone: Timezone = None,
    via: Via = None,
    owner: Owner = None,
    metadata: Metadata = None,
) -> None:
    """Registers a device whose messages wait in the quarantine, and has them stored."""
    settings = settings_of(ctx)
    refuse_reserved(settings, [device])
    fields = _fields(name, type_, location, interval, timezone, via, owner, metadata)
    approved = approve_device(settings.database, device, fields)
    done = "registered" if approved.registered else "was registered already"
    typer.echo(f"device {device} {done}; {approved.replayed} quarantined messages will be replayed by the daemon")
    if approved.counted_only:
        limit = "ingest.quarantine_per_device_hour"
        typer.echo(f"note: {approved.counted_only} more were beyond {limit} and only counted: they are gone", err=True)


@app.command()
def retire(ctx: typer.Context, device: DeviceId) -> None:
    """Ends a device's service: its data stays, its credentials go, what it still sends is quarantined."""
    children = retire_device(settings_of(ctx).database, device)
    typer.echo(f"device {device} retired")
    if children:
        typer.echo(f"note: {children} devices still have it as their gateway: factoryd device list --via {device}", err=True)


app.command("import")(device_import.import_)
app.command()(device_access.credentials)
app.command()(device_watch.watch)
app.command()(device_decode.decode)
app.command()(device_gaps.gaps)


def notes_of(view: DeviceView) -> list[str]:
    """Returns what an operator should know of a device, in a few words each."""
    notes = []
    if view.retired_at is not None:
        notes.append("retired")
    if view.status_reason:
        notes.append(view.status_reason)
    if view.clock != "ok":
        notes.append(f"clock {view.clock}")
    if view.qos0_seen:
        notes.append("QoS 0")
    if view.missing_messages:
        notes.append(f"{view.missing_messages} missing")
    if not view.has_credentials and view.via is None and view.retired_at is None:
        notes.append("no credentials")
    return notes


def _fields(
    name: str | None,
    kind: str | None,
    location: str | None,
    interval: str | None,
    timezone: str | None,
    via: str | None,
    owner: str | None,
    metadata: str | None,
) -> DeviceFields:
    texts = {"name": name, "type": kind, "location": location, "interval": interval}
    return read_fields({**texts, "timezone": timezone, "via": via, "owner": owner, "metadata": metadata})
