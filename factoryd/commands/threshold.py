"""`factoryd threshold`: which values raise an alert."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from factoryd.commands import threshold_edit, threshold_import, threshold_try
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption, print_rows
from factoryd.commands.threshold_options import (
    Clear,
    For,
    Hysteresis,
    Instruction,
    Max,
    MaxGap,
    Min,
    NoData,
    Owner,
    SeverityName,
    values_of,
)
from factoryd.commands.threshold_report import tell_of_class, tell_of_threshold
from factoryd.commands.threshold_texts import condition_text
from storage.device_fields import check_device_id
from storage.refusals import InvalidInput
from storage.threshold_admin import add_class, add_threshold
from storage.threshold_fields import Threshold, read_selector
from storage.threshold_rows import Stored
from storage.threshold_views import list_classes, list_thresholds

app = typer.Typer(no_args_is_help=True, help="Which values raise an alert.")

COLUMNS = {
    "id": "ID",
    "device": "DEVICE",
    "metric": "METRIC",
    "condition": "CONDITION",
    "severity": "SEVERITY",
    "owner": "OWNER",
    "class": "CLASS",
    "state": "STATE",
    "alert": "ALERT",
}
CLASS_COLUMNS = {
    "id": "ID",
    "select": "DEVICES",
    "matching": "NOW",
    "metric": "METRIC",
    "condition": "CONDITION",
    "severity": "SEVERITY",
    "owner": "OWNER",
    "enabled": "ENABLED",
}


@app.command()
def add(
    ctx: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="[DEVICE] METRIC", help="Device id and metric; with --select the metric alone.")
    ],
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            metavar="KEY=VALUE,…",
            help="All devices, new ones included, of this type, location, via, owner, device; * is any text.",
        ),
    ] = None,
    low: Min = None,
    high: Max = None,
    severity: SeverityName = None,
    for_: For = None,
    hysteresis: Hysteresis = None,
    clear: Clear = None,
    max_gap: MaxGap = None,
    no_data: NoData = None,
    instruction: Instruction = None,
    owner: Owner = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Not yet in effect: factoryd threshold enable.")] = False,
) -> None:
    """Raises an alert when a metric of a device, or of a class of devices, is beyond a limit; in effect at once.

    factoryd threshold add press-1 temperature --max 80 --for 30s --hysteresis 2

    factoryd threshold add --select type=press,location=hall-2 temperature --max 80
    """
    *devices, metric = names
    values = values_of(low, high, severity, for_, hysteresis, clear, max_gap, no_data, instruction, owner)
    threshold = Threshold(metric, **values, enabled=not disabled)
    if select is not None and not devices:
        selector = read_selector(select)
        tell_of_class(settings_of(ctx), add_class(settings_of(ctx).database, selector, threshold), selector, threshold)
    elif select is None and len(devices) == 1:
        device = check_device_id(devices[0])
        tell_of_threshold(settings_of(ctx), add_threshold(settings_of(ctx).database, device, threshold), device, threshold)
    else:
        raise InvalidInput("say which: DEVICE METRIC for one device, or --select type=press METRIC for a class of them")


@app.command("list")
def list_(
    ctx: typer.Context,
    device: Annotated[str | None, typer.Option(metavar="ID", help="Only of this device.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only of this metric.")] = None,
    class_: Annotated[int | None, typer.Option("--class", metavar="ID", help="Only those that this class keeps.")] = None,
    classes: Annotated[bool, typer.Option("--classes", help="The classes themselves.")] = False,
    after: Annotated[int, typer.Option(metavar="ID", help="Go on after this one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 1000,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists thresholds by number, a page at a time. STATE is where each stands, ALERT its open alert."""
    if classes and (device is not None or class_ is not None):
        raise InvalidInput("--classes shows the classes: leave --device and --class out")
    settings, nothing = settings_of(ctx).database, "no thresholds; factoryd threshold add makes one"
    rows: list[dict[str, Any]]
    if classes:
        kinds = list_classes(settings, after=after, limit=limit + 1, metric=metric)
        rows = [{**_row(kind.stored), "matching": kind.devices} for kind in kinds]
        nothing = "no classes; factoryd threshold add --select makes one"
    else:
        views = list_thresholds(settings, after=after, limit=limit + 1, device=device, metric=metric, class_id=class_)
        rows = [{**_row(view.stored), "state": view.state, "alert": view.alert_id} for view in views]
    print_rows(rows[:limit], CLASS_COLUMNS if classes else COLUMNS, output, nothing)
    if len(rows) > limit:
        typer.echo(f"more: --after {rows[limit - 1]['id']}", err=True)


app.command("try")(threshold_try.try_)
threshold_edit.register(app)
threshold_import.register(app)


def _row(stored: Stored) -> dict[str, Any]:
    of = {"select": stored.target} if stored.is_class else {"device": stored.device, "class": stored.class_id}
    return {"id": stored.id, **of, "condition": condition_text(stored.threshold), **asdict(stored.threshold)}
