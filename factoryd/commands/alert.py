"""`factoryd alert`: what is wrong now, what was, and what people do about it."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from factoryd.commands import alert_acts, alert_watch
from factoryd.commands.alert_options import Device, SeverityName, check_severity
from factoryd.commands.durations import read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, print_json, print_one, print_rows, shown
from storage.alert_views import AlertSelection, AlertView, get_alert, list_alerts
from storage.refusals import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Look at alerts, and act on them.")

COLUMNS = {
    "id": "ID",
    "severity": "SEVERITY",
    "status": "STATUS",
    "triggered_at": "SINCE",
    "device": "DEVICE",
    "metric": "METRIC",
    "value": "VALUE",
    "owner": "OWNER",
    "notes": "NOTES",
    "message": "MESSAGE",
}
HISTORY_COLUMNS = {
    "version": "VERSION",
    "happened_at": "WHEN",
    "change": "CHANGE",
    "status": "STATUS",
    "value": "VALUE",
    "by": "BY",
    "note": "NOTE",
}


@app.command("list")
def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all/--open", help="Resolved ones, too; default: only open ones.")] = False,
    device: Device = None,
    severity: SeverityName = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Triggered since, e.g. 2h or 2026-11-22T10:00Z.")] = None,
    after: Annotated[int | None, typer.Option(metavar="ID", help="Go on after this alert.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists alerts: open ones the most severe first; with --all the newest first."""
    check_severity(severity)
    moment = read_moment(since, datetime.now(UTC)) if since else None
    selection = AlertSelection(everything, device, severity, moment)
    views = list_alerts(settings_of(ctx).database, selection, limit=limit + 1, after=after)
    rows = [{**asdict(view), "notes": ", ".join(notes_of(view))} for view in views[:limit]]
    print_rows(rows, COLUMNS, output, nothing="no alerts" if everything else "no open alerts")
    if len(views) > limit:
        typer.echo(f"more: --after {views[limit - 1].id}", err=True)


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="As alert list shows it.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows one alert, what to do, and all that happened to it."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: an alert with its history is no list; use table or json")
    view, history = get_alert(settings_of(ctx).database, number)
    changes = [asdict(change) for change in history]
    if output in JSON_FORMS:
        print_json({**asdict(view), "history": changes}, output)
        return
    print_one(asdict(view), output)
    typer.echo()
    print_rows(changes, HISTORY_COLUMNS, output, nothing="no history: the daemon has not seen it yet")


alert_watch.register(app)
alert_acts.register(app)


def notes_of(view: AlertView) -> Iterator[str]:
    """Yields what an operator should know of an alert, in a few words each."""
    if view.acknowledged_by is not None:
        yield f"acknowledged by {view.acknowledged_by}"
    if view.shelved_until is not None and view.resolved_at is None:
        yield f"shelved until {shown(view.shelved_until)}"
    if view.inhibited_by is not None and view.resolved_at is None:
        yield f"inhibited by {view.inhibited_by}"
    if view.stale:
        yield "stale"
    if view.flapping:
        yield "flapping"
    if view.origin != "live":
        yield view.origin
    if view.resolution is not None:
        yield view.resolution
