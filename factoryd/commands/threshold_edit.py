"""`factoryd threshold edit`, `enable`, `disable`, `delete`: thresholds and classes of them, by number."""

from collections.abc import Sequence
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.threshold_options import (
    Classes,
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
from storage.refusals import InvalidInput
from storage.threshold_admin import Chosen, delete_thresholds, edit_thresholds

Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="As threshold list shows them.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (edit, enable, disable, delete):
        app.command()(command)


def edit(
    ctx: typer.Context,
    ids: Ids = None,
    classes: Classes = None,
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
) -> None:
    """Changes what is named, and nothing else, of all these or of none. The value none, as in --min none, takes it away."""
    values = values_of(low, high, severity, for_, hysteresis, clear, max_gap, no_data, instruction, owner)
    if not values:
        raise InvalidInput("nothing to change: name at least one option, see factoryd threshold edit --help")
    _tell(edit_thresholds(settings_of(ctx).database, _chosen(ids, classes), values), "changed", "as before")


def enable(ctx: typer.Context, ids: Ids = None, classes: Classes = None) -> None:
    """Brings thresholds in effect: the last known value is held against them at once."""
    chosen = _chosen(ids, classes)
    _tell(edit_thresholds(settings_of(ctx).database, chosen, {"enabled": True}), "enabled", "in effect already")


def disable(ctx: typer.Context, ids: Ids = None, classes: Classes = None) -> None:
    """Takes thresholds out of effect; their open alerts are resolved."""
    chosen = _chosen(ids, classes)
    _tell(edit_thresholds(settings_of(ctx).database, chosen, {"enabled": False}), "disabled", "out of effect already")


def delete(ctx: typer.Context, ids: Ids = None, classes: Classes = None) -> None:
    """Deletes thresholds for good; their open alerts are resolved. A class goes with all that it keeps."""
    _tell(delete_thresholds(settings_of(ctx).database, _chosen(ids, classes)), "deleted", "")


def _chosen(ids: Sequence[int] | None, classes: Sequence[int] | None) -> Chosen:
    if not ids and not classes:
        raise InvalidInput("say which: ids as factoryd threshold list shows them, or --class ID")
    return Chosen(ids or (), classes or ())


def _tell(names: Sequence[str], done: str, otherwise: str) -> None:
    typer.echo(f"{', '.join(names)} {done}" if names else f"nothing to do: {otherwise}")
