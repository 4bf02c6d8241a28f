"""`factoryd quarantine`: messages that could not be stored."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from config.settings import DatabaseSettings
from factoryd.commands.durations import read_duration, read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.payload_text import payload_text
from factoryd.commands.tables import Output, OutputOption, print_one, print_rows
from storage.quarantine import (
    Selection,
    get_quarantined,
    list_quarantine,
    missing_ids,
    purge_quarantine,
    request_replay,
)
from storage.refusals import InvalidInput, NotFound

app = typer.Typer(no_args_is_help=True, help="Messages that could not be stored.")

Device = Annotated[str | None, typer.Option(metavar="ID", help="Only of this device.")]
Reason = Annotated[str | None, typer.Option(help="Only for this reason, e.g. unknown_device.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="As quarantine list shows them.")]

COLUMNS = {
    "id": "ID",
    "received_at": "RECEIVED",
    "device": "DEVICE",
    "reason": "REASON",
    "detail": "DETAIL",
    "size": "BYTES",
    "repeats": "TIMES",
    "replay_requested_at": "REPLAY ASKED",
}


@app.command("list")
def list_(
    ctx: typer.Context,
    device: Device = None,
    reason: Reason = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Received since, e.g. 2h or 2026-11-22T10:00Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 100,
    below: Annotated[int | None, typer.Option(metavar="ID", help="Go on with older ones than this.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists what is kept, newest first. TIMES above 1 is a flood: one sample kept, the rest counted."""
    moment = read_moment(since, datetime.now(UTC)) if since else None
    selection = Selection(device=device, reason=reason, since=moment)
    views = list_quarantine(settings_of(ctx).database, selection, limit=limit + 1, below=below)
    print_rows([asdict(view) for view in views[:limit]], COLUMNS, output, nothing="the quarantine is empty")
    if len(views) > limit:
        typer.echo(f"more: --below {views[limit - 1].id}", err=True)


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="As quarantine list shows it.")],
    output: OutputOption = Output.TABLE,
    raw: Annotated[bool, typer.Option("--raw", help="Write just the payload's bytes.")] = False,
) -> None:
    """Shows one message with its payload: as text where it is text, else in hex."""
    view, payload = get_quarantined(settings_of(ctx).database, number)
    if raw:
        typer.echo(payload, nl=False)
        return
    kind, text = payload_text(payload)
    print_one({**asdict(view), f"payload_{kind}": text}, output)


@app.command()
def replay(
    ctx: typer.Context,
    ids: Ids = None,
    device: Device = None,
    reason: Reason = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the quarantine.")] = False,
) -> None:
    """Has the daemon take messages once more; what still cannot be stored comes back with its present reason."""
    selection = Selection(ids or (), device, reason)
    settings = settings_of(ctx)
    _refuse_unselected(selection, everything)
    _refuse_missing(settings.database, ids or ())
    asked = request_replay(settings.database, selection)
    typer.echo(f"{asked} messages will be replayed by the daemon")


@app.command()
def purge(
    ctx: typer.Context,
    ids: Ids = None,
    device: Device = None,
    reason: Reason = None,
    older_than: Annotated[str | None, typer.Option(metavar="DURATION", help="Received longer ago, e.g. 30d.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the quarantine.")] = False,
) -> None:
    """Throws messages away for good."""
    before = datetime.now(UTC) - read_duration(older_than) if older_than else None
    selection = Selection(ids or (), device, reason, before=before)
    settings = settings_of(ctx)
    _refuse_unselected(selection, everything)
    _refuse_missing(settings.database, ids or ())
    typer.echo(f"{purge_quarantine(settings.database, selection)} messages purged")


def _refuse_unselected(selection: Selection, everything: bool) -> None:
    if bool(selection) == everything:
        raise InvalidInput("say which: ids or options that select some, or else --all")


def _refuse_missing(settings: DatabaseSettings, ids: Sequence[int]) -> None:
    missing = missing_ids(settings, ids) if ids else []
    if missing:
        raise NotFound(f"not in the quarantine: {', '.join(map(str, missing))}; nothing was done")
