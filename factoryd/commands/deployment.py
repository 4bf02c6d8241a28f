"""`factoryd deployment`: one version on its way to one device."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from factoryd.commands import deployment_acts, deployment_watch
from factoryd.commands.deployment_explain import explain
from factoryd.commands.durations import DURATION, read_duration, read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, print_json, print_one, print_rows
from ota.deployment import Outcome, VerifyMode
from storage.deployment_admin import NewDeployment, add_deployment
from storage.deployment_views import DeploymentSelection, get_deployment, list_deployments
from storage.operator_requests import SYSTEM
from storage.refusals import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Bring a version to a device, and see how it stands.")

COLUMNS = {
    "id": "ID",
    "device": "DEVICE",
    "version": "VERSION",
    "status": "STATUS",
    "phase": "PHASE",
    "progress_percent": "%",
    "attempt": "ATTEMPT",
    "outcome": "OUTCOME",
    "error_code": "ERROR",
    "created_at": "CREATED",
}
EVENT_COLUMNS = {
    "happened_at": "WHEN",
    "kind": "BY",
    "verdict": "WHAT",
    "attempt": "ATTEMPT",
    "seq": "SEQ",
    "phase": "PHASE",
    "progress_percent": "%",
    "error_code": "ERROR",
    "detail": "DETAIL",
}
Moment = Annotated[str | None, typer.Option(metavar="TIME", help="A time, or a duration from now, e.g. 12h.")]


@app.command()
def create(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Of several for one device the highest goes first.")] = 0,
    not_before: Moment = None,
    expires: Moment = None,
    verify: Annotated[
        VerifyMode, typer.Option(help="Whose word ends it: the device's report, or the version that runs after its reboot.")
    ] = VerifyMode.REPORT,
    attempts: Annotated[int | None, typer.Option(min=1, max=100, help="Default: ota.max_attempts.")] = None,
    actor: Annotated[str, typer.Option("--actor", metavar="LOGIN", help="Who wants it.")] = SYSTEM,
) -> None:
    """Brings a version to a device: now, or when it is next online."""
    settings = settings_of(ctx)
    now = datetime.now(UTC)
    new = NewDeployment(
        device,
        version,
        actor,
        priority,
        _moment(not_before, now),
        _moment(expires, now),
        attempts or settings.ota.max_attempts,
        verify.value,
    )
    if new.queue_expires_at is not None and new.queue_expires_at <= now:
        raise InvalidInput(f"--expires {expires}: is past")
    number = add_deployment(settings.database, new)
    typer.echo(f"deployment {number}: {version} to {device}")
    typer.echo(f"see factoryd deployment watch {number}, or factoryd deployment explain {device}", err=True)


@app.command("list")
def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all/--live", help="Ended ones, too; default: only live ones.")] = False,
    device: Annotated[str | None, typer.Option("--device", metavar="ID")] = None,
    version: Annotated[str | None, typer.Option("--version", metavar="VERSION")] = None,
    rollout: Annotated[int | None, typer.Option("--rollout", metavar="ID")] = None,
    outcome: Annotated[Outcome | None, typer.Option("--outcome", help="Only those that ended so.")] = None,
    after: Annotated[int | None, typer.Option(metavar="ID", help="Go on after this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists deployments, the newest first."""
    ended = everything or outcome is not None
    selection = DeploymentSelection(ended, device, version, rollout, outcome.value if outcome else None)
    views = list_deployments(settings_of(ctx).database, selection, limit=limit + 1, after=after)
    rows = [asdict(view) for view in views[:limit]]
    print_rows(rows, COLUMNS, output, nothing="no deployments" if ended else "no live deployments")
    if len(views) > limit:
        typer.echo(f"more: --after {views[limit - 1].id}", err=True)


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="As deployment list shows it.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows one deployment and all that happened to it."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: a deployment with its history is no list; use table or json")
    view, history = get_deployment(settings_of(ctx).database, number)
    events = [asdict(event) for event in history]
    if output in JSON_FORMS:
        print_json({**asdict(view), "history": events}, output)
        return
    print_one({name: value for name, value in asdict(view).items() if value is not None}, output)
    typer.echo()
    print_rows(events, EVENT_COLUMNS, output, nothing="no history: it has not been sent")


app.command()(explain)
deployment_watch.register(app)
deployment_acts.register(app)


def _moment(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    ahead = read_duration(text) if DURATION.fullmatch(text.strip().lower()) else timedelta()
    return now + ahead if ahead else read_moment(text, now)
