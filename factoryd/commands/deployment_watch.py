"""`factoryd deployment watch`: what happens to deployments as it happens."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, plain, shown
from storage.deployment_stream import ended_deployments, stream_events
from storage.deployment_views import DeploymentView, EventView
from storage.refusals import Conflict, InvalidInput


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(watch)


def watch(
    ctx: typer.Context,
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="These, until all have ended; none: all, for ever.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="ID", help="Only of this device.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many lines.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows what happens to deployments as it happens. Ctrl-C ends it. With IDs it fails if one of them has failed."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: a stream is no list; use table or json (one object per line)")
    told, database = 0, settings_of(ctx).database
    try:
        for event in stream_events(database, ids or [], lambda: typer.echo("watching deployments; Ctrl-C ends it", err=True)):
            if device in {None, event.device}:
                _say(event, output)
                told += 1
            if told == count:
                return
    except KeyboardInterrupt:
        return
    _judge(ended_deployments(database, ids or []))


def _judge(views: Sequence[DeploymentView]) -> None:
    for view in views:
        typer.echo(f"deployment {view.id}: {view.version} to {view.device}: {view.outcome}", err=True)
    if failed := [
        f"deployment {view.id}: {view.outcome}: {view.error_message or ''}" for view in views if view.status == "failed"
    ]:
        raise Conflict("\n".join(failed))


def _say(event: EventView, output: Output) -> None:
    if output in JSON_FORMS:
        typer.echo(json.dumps(asdict(event), default=plain, ensure_ascii=False))
        return
    percent = f"{event.progress_percent} %" if event.progress_percent is not None else ""
    trouble = ": ".join(filter(None, [event.error_code, shown(event.detail)]))
    texts = [
        f"{event.happened_at:%H:%M:%S}Z",
        f"{event.device:16}",
        f"{event.version:10}",
        f"#{event.deployment_id}",
        f"{event.phase:12}",
        f"{percent:6}",
        f"{event.verdict:12}",
        trouble,
    ]
    typer.echo("  ".join(texts).rstrip())
