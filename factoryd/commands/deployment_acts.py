"""`factoryd deployment cancel`, `retry`, `hold`, `unhold`, `unquarantine`."""

from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from ota.deployment import IRREVERSIBLE
from storage.deployment_admin import cancel_deployments, end_quarantine, hold_device, retry_deployment
from storage.operator_requests import SYSTEM
from storage.refusals import Conflict, InvalidInput

MAX_REASON = 200
Device = Annotated[str, typer.Argument(metavar="DEVICE")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Told to the device and kept.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (cancel, retry, hold, unhold, unquarantine):
        app.command()(command)


def cancel(
    ctx: typer.Context,
    ids: Annotated[list[int], typer.Argument(metavar="ID", help="As deployment list shows them.")],
    reason: Reason = None,
    force: Annotated[bool, typer.Option("--force", help="End it here, whatever the device does.")] = False,
) -> None:
    """Ends deployments: what waits at once, what is with a device when it has answered.

    A device that already writes its flash is not asked to stop: half an update is worse than a whole one.
    """
    _check(reason)
    troubles = []
    for view in cancel_deployments(settings_of(ctx).database, ids, reason, force=force):
        if view.completed_at is not None:
            troubles.append(f"deployment {view.id} has ended already: {view.outcome}")
        elif view.phase in IRREVERSIBLE and not force:
            troubles.append(f"deployment {view.id} is {view.phase}: it is let finish; --force ends it here")
        else:
            typer.echo(f"deployment {view.id}: to be cancelled ({view.phase})")
    if troubles:
        raise Conflict("\n".join(troubles))


def retry(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="As deployment list --all shows it.")],
    actor: Annotated[str, typer.Option("--actor", metavar="LOGIN", help="Who wants it.")] = SYSTEM,
) -> None:
    """Tries a failed deployment again, as a new one; of one in its pause, ends the pause."""
    again = retry_deployment(settings_of(ctx).database, number, actor)
    typer.echo(f"deployment {again.new}" + (": its pause is over" if again.new == again.old else f": instead of {again.old}"))


def hold(ctx: typer.Context, device: Device, reason: Annotated[str, typer.Option("--reason", metavar="TEXT")]) -> None:
    """Keeps a device from being sent firmware."""
    _check(reason)
    hold_device(settings_of(ctx).database, device, reason.strip())
    typer.echo(f"{device}: no firmware is sent until factoryd deployment unhold {device}")


def unhold(ctx: typer.Context, device: Device) -> None:
    """Ends a hold."""
    hold_device(settings_of(ctx).database, device, None)
    typer.echo(f"{device}: may be sent firmware")


def unquarantine(ctx: typer.Context, device: Device) -> None:
    """Lets rollouts try again a device that failed twice in a row."""
    ended = end_quarantine(settings_of(ctx).database, device)
    typer.echo(f"{device}: " + ("its failures are forgotten" if ended else "was not in quarantine"))


def _check(reason: str | None) -> None:
    if reason is not None and not 0 < len(reason.strip()) <= MAX_REASON:
        raise InvalidInput(f"--reason: give 1 to {MAX_REASON} characters")
