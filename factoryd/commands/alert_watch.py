"""`factoryd alert watch`: each new version of an alert, live, as the database has it."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from config.settings import DatabaseSettings
from factoryd.commands.alert_options import Device, SeverityName, check_severity
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, plain, shown
from storage.alert_views import LiveChangeView, changes_after, last_change
from storage.command_connection import command_connection
from storage.refusals import InvalidInput

POLL_S = 0.25


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(watch)


def watch(
    ctx: typer.Context,
    device: Device = None,
    severity: SeverityName = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many lines.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows what happens to alerts as it happens: raised, acknowledged, resolved, and by whom. Ctrl-C ends it."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: a stream is no list; use table or json (one object per line)")
    check_severity(severity)
    say = _say_json if output in JSON_FORMS else _say_line
    told = 0
    try:
        for change in watch_changes(settings_of(ctx).database, lambda: typer.echo("watching alerts; Ctrl-C ends it", err=True)):
            if device in {None, change.device} and severity in {None, change.severity}:
                say(change)
                told += 1
            if told == count:
                return
    except KeyboardInterrupt:
        return


def watch_changes(settings: DatabaseSettings, begun: Callable[[], None]) -> Iterator[LiveChangeView]:
    """Yields versions of alerts for ever, from now on.

    Raises:
        DatabaseUnavailable: the connection failed or ended.
    """
    with command_connection(settings) as connection:
        last = last_change(connection)
        begun()
        while True:
            changes = changes_after(connection, last)
            for change in changes:
                last = change.id
                yield change
            if not changes:
                time.sleep(POLL_S)


def _say_json(change: LiveChangeView) -> None:
    typer.echo(json.dumps(asdict(change), default=plain, ensure_ascii=False))


def _say_line(change: LiveChangeView) -> None:
    what = f"{change.change} by {change.by}" if change.by is not None else change.change
    texts = [
        f"{change.happened_at:%H:%M:%S}Z",
        f"{what:12}",
        f"{change.severity:8}",
        f"#{change.alert_id}",
        shown(change.message),
        f"({shown(change.note)})" if change.note else "",
    ]
    typer.echo("  ".join(filter(None, texts)))
