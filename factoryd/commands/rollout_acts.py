"""`factoryd rollout start`, `pause`, `resume`, `abort`."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.rollout_options import Actor
from storage.refusals import InvalidInput
from storage.rollout_admin import abort_rollout, pause_rollout, resume_rollout, start_rollout

MAX_REASON = 500
Number = Annotated[int, typer.Argument(metavar="ID", help="As rollout list shows it.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Shown wherever the rollout is.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (start, pause, resume, abort):
        app.command()(command)


def start(ctx: typer.Context, number: Number) -> None:
    """Begins a scheduled rollout now."""
    start_rollout(settings_of(ctx).database, number, datetime.now(UTC))
    typer.echo(f"rollout {number} begins now")


def pause(ctx: typer.Context, number: Number, reason: Reason = None, actor: Actor = "system") -> None:
    """Sends nothing new; what is under way goes on."""
    pause_rollout(settings_of(ctx).database, number, _reason("paused", actor, reason), datetime.now(UTC))
    typer.echo(f"rollout {number} paused; factoryd rollout resume {number} goes on")


def resume(
    ctx: typer.Context,
    number: Number,
    accept_failures: Annotated[
        bool, typer.Option("--accept-failures", help="What has failed so far does not count any more.")
    ] = False,
) -> None:
    """Goes on with a paused rollout; its gate is asked first."""
    rollout = resume_rollout(settings_of(ctx).database, number, datetime.now(UTC), accept_failures=accept_failures)
    stage = f" with stage {rollout.current.name}" if rollout.current is not None else ""
    typer.echo(f"rollout {number} is {rollout.status}{stage}")


def abort(ctx: typer.Context, number: Number, reason: Reason = None, actor: Actor = "system") -> None:
    """Ends a rollout: cancels what waits or has not begun to install; what installs is let finish."""
    abort_rollout(settings_of(ctx).database, number, _reason("aborted", actor, reason), datetime.now(UTC))
    typer.echo(f"rollout {number} is being aborted; factoryd rollout watch {number} shows when it is")


def _reason(what: str, actor: str, reason: str | None) -> str:
    if reason is not None and not (0 < len(reason) <= MAX_REASON and reason.isprintable()):
        raise InvalidInput(f"--reason: 1 to {MAX_REASON} printable characters fit")
    return f"{what} by {actor}" + (f": {reason}" if reason else "")
