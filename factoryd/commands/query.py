"""`factoryd query`: what is asked most, fast: readings and their chart, active alerts, devices, deployments of a version."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from factoryd.commands import query_chart
from factoryd.commands.durations import read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.query_places import read_alert_place, read_deployment_place, written
from factoryd.commands.tables import Output, OutputOption, plain, print_pages, print_rows
from factoryd.safe_text import printable
from ingest.reading import METRICS
from storage.command_connection import command_connection
from storage.queries import (
    AlertPlace,
    DeploymentPlace,
    Reading,
    active_alerts,
    deployments_of,
    device_overview,
    recent_readings,
)
from storage.refusals import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Ask for readings, charts, active alerts, devices, deployments.")

PAGE = 5_000
"""Rows of one statement of --all."""
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")]
All = Annotated[bool, typer.Option("--all", help="All of them, page by page; with -o csv or jsonl.")]
View = TypeVar("View")
Place = TypeVar("Place")

READING_COLUMNS = {
    "recorded_at": "RECORDED",
    "temperature": "TEMPERATURE",
    "humidity": "HUMIDITY",
    "pressure": "PRESSURE",
    "vibration": "VIBRATION",
    "power_consumption": "POWER",
    "rpm": "RPM",
    "extra": "EXTRA",
    "received_at": "RECEIVED",
}
ALERT_COLUMNS = {
    "id": "ID",
    "severity": "SEVERITY",
    "status": "STATUS",
    "triggered_at": "SINCE",
    "device": "DEVICE",
    "device_name": "NAME",
    "owner_email": "OWNER",
    "metric": "METRIC",
    "value": "VALUE",
    "message": "MESSAGE",
}
DEVICE_COLUMNS = {
    "device": "DEVICE",
    "name": "NAME",
    "status": "STATUS",
    "active_alerts": "ALERTS",
    "worst": "WORST",
    "last_reading_at": "LAST READING",
    "last_seen": "LAST SEEN",
    "owner": "OWNER",
}
DEPLOYMENT_COLUMNS = {
    "id": "ID",
    "status": "STATUS",
    "outcome": "OUTCOME",
    "device": "DEVICE",
    "device_name": "NAME",
    "progress_percent": "PERCENT",
    "error_code": "ERROR",
    "created_at": "CREATED",
    "completed_at": "COMPLETED",
}


@app.command()
def readings(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Device id, as in its topics.")],
    since: Annotated[str, typer.Option(metavar="TIME", help="From, e.g. 2h (ago) or 2026-11-22T10:00Z.")] = "1h",
    until: Annotated[str | None, typer.Option(metavar="TIME", help="To before this; default: the newest.")] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="Go on with those before this.")] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="This metric alone, e.g. temperature.")] = None,
    chart: Annotated[bool, typer.Option("--chart", help="Draw the metric over time; other outputs give its points.")] = False,
    points: Annotated[int | None, typer.Option(help="Points of the chart, at most 2000; default: as fit.")] = None,
    limit: Limit = 100,
    everything: All = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows readings of a device, the newest first; times are by the device's clock.

    factoryd query readings press-7 --metric temperature --since 30d --chart
    """
    now = datetime.now(UTC)
    begin, end = read_moment(since, now), read_moment(until, now) if until else None
    if chart:
        if metric is None or everything or before is not None:
            raise InvalidInput("--chart: name one --metric, and neither --all nor --before")
        query_chart.show(settings_of(ctx), device, metric, begin, end or now, points, output)
        return
    place = read_moment(before, now) if before else None
    columns = READING_COLUMNS if metric is None else _columns_of(metric)
    with command_connection(settings_of(ctx).database) as connection:

        def ask(before: datetime | None, limit: int) -> list[Reading]:
            return recent_readings(connection, device, since=begin, until=end, before=before, metric=metric, limit=limit)

        if everything:
            pages = _pages(ask, place, lambda view: view.recorded_at)
            print_pages(([_reading_row(view, metric) for view in page] for page in pages), columns, output)
            return
        views = ask(place, limit + 1)
    print_rows([_reading_row(view, metric) for view in views[:limit]], columns, output, nothing="no readings in that time")
    if len(views) > limit:
        typer.echo(f"more: --before {plain(views[limit - 1].recorded_at)}", err=True)


@app.command()
def alerts(
    ctx: typer.Context,
    acknowledged: Annotated[bool, typer.Option("--acknowledged", help="Acknowledged ones, too.")] = False,
    after: Annotated[str | None, typer.Option(metavar="PLACE", help="Go on where the page before has ended.")] = None,
    limit: Limit = 100,
    everything: All = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists active alerts with device and owner: critical first, then the newest."""
    place = read_alert_place(after) if after else None
    with command_connection(settings_of(ctx).database) as connection:
        _list(
            lambda after, limit: active_alerts(connection, after=after, acknowledged=acknowledged, limit=limit),
            place,
            lambda view: AlertPlace(view.severity, view.triggered_at, view.id),
            ALERT_COLUMNS,
            None if everything else limit,
            output,
            "no active alerts",
        )


@app.command()
def devices(
    ctx: typer.Context,
    owner: Annotated[str | None, typer.Option(metavar="LOGIN", help="Only of this user.")] = None,
    after: Annotated[str, typer.Option(metavar="ID", help="Go on after this device.")] = "",
    limit: Limit = 1000,
    everything: All = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists devices in service by id: status, active alerts, time of the last reading."""
    with command_connection(settings_of(ctx).database) as connection:
        _list(
            lambda after, limit: device_overview(connection, after=after or "", owner=owner, limit=limit),
            after,
            lambda view: view.device,
            DEVICE_COLUMNS,
            None if everything else limit,
            output,
            "no devices",
        )


@app.command()
def deployments(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As firmware list shows it.")],
    status: Annotated[str | None, typer.Option(metavar="pending|in_progress|completed|failed", help="Only these.")] = None,
    after: Annotated[str | None, typer.Option(metavar="PLACE", help="Go on where the page before has ended.")] = None,
    limit: Limit = 100,
    everything: All = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists the deployments of a firmware version by status."""
    if status not in {None, "pending", "in_progress", "completed", "failed"}:
        raise InvalidInput(f"--status {status}: must be pending, in_progress, completed or failed")
    place = read_deployment_place(after) if after else None
    with command_connection(settings_of(ctx).database) as connection:
        _list(
            lambda after, limit: deployments_of(connection, version, status=status, after=after, limit=limit),
            place,
            lambda view: DeploymentPlace(view.status, view.id),
            DEPLOYMENT_COLUMNS,
            None if everything else limit,
            output,
            "no deployments",
        )


def _list(
    ask: Callable[[Place | None, int], Sequence[Any]],
    place: Place | None,
    place_of: Callable[[Any], Place],
    columns: dict[str, str],
    limit: int | None,
    output: Output,
    nothing: str,
) -> None:
    """Prints a page and where to go on, or without a limit all of it."""
    if limit is None:
        print_pages(([asdict(view) for view in page] for page in _pages(ask, place, place_of)), columns, output)
        return
    views = ask(place, limit + 1)
    print_rows([asdict(view) for view in views[:limit]], columns, output, nothing=nothing)
    if len(views) > limit:
        typer.echo(f"more: --after {written(place_of(views[limit - 1]))}", err=True)


def _pages(
    ask: Callable[[Place | None, int], Sequence[View]], place: Place | None, place_of: Callable[[View], Place]
) -> Iterator[Sequence[View]]:
    """Yields pages up to the end; an empty one, if there is nothing at all."""
    while True:
        page = ask(place, PAGE)
        yield page
        if len(page) < PAGE:
            return
        place = place_of(page[-1])


def _columns_of(metric: str) -> dict[str, str]:
    return {"recorded_at": "RECORDED", "value": printable(metric.upper(), 40), "received_at": "RECEIVED"}


def _reading_row(view: Reading, metric: str | None) -> dict[str, Any]:
    if metric is None:
        return asdict(view)
    value = getattr(view, metric) if metric in METRICS else (view.extra or {}).get(metric)
    return {"recorded_at": view.recorded_at, "value": value, "received_at": view.received_at}
