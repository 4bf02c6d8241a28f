"""`factoryd rollout`: one firmware version to many devices, in stages."""

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from factoryd.commands import rollout_acts, rollout_watch
from factoryd.commands.invocation import settings_of
from factoryd.commands.rollout_options import (
    Actor,
    AllowDowngrade,
    Canary,
    EndAt,
    ErrorThreshold,
    MaxFailures,
    MaxInProgress,
    MaxPerMinute,
    MinSample,
    Name,
    OnError,
    OnStageSuccess,
    Select,
    Soak,
    Stages,
    StartAt,
    SuccessThreshold,
    UnreachableAfter,
    Verify,
    Version,
    Window,
    read_future,
    read_seconds,
)
from factoryd.commands.rollout_texts import plan_facts, plan_lines, rollout_facts, stage_facts, standing_text
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, plain, print_one, print_rows, shown
from ota.eligibility import REASONS
from ota.stages import BadStages, read_stages
from storage.refusals import InvalidInput
from storage.rollout_admin import create_rollout, plan_rollout
from storage.rollout_fields import Terms
from storage.rollout_views import RolloutView, list_rollouts, show_rollout
from storage.threshold_fields import read_selector, selector_text

app = typer.Typer(no_args_is_help=True, help="Bring a firmware version to many devices, in stages.")

COLUMNS = {
    "id": "ID",
    "name": "NAME",
    "version": "VERSION",
    "status": "STATUS",
    "stage": "STAGE",
    "devices": "DEVICES",
    "in_progress": "UNDER WAY",
    "succeeded": "SUCCEEDED",
    "faults": "FAILED",
    "pause_reason": "REASON",
}
STAGE_COLUMNS = {
    "stage_no": "NO",
    "name": "STAGE",
    "status": "STATUS",
    "planned": "DEVICES",
    "pending": "WAITING",
    "in_progress": "UNDER WAY",
    "succeeded": "SUCCEEDED",
    "faults": "FAILED",
    "rejected": "REFUSED",
    "never_reached": "NEVER REACHED",
    "excluded": "TAKEN OUT",
    "unreachable": "UNREACHABLE",
    "verdict": "GATE",
    "reason": "BECAUSE",
}
Number = Annotated[int, typer.Argument(metavar="ID", help="As rollout list shows it.")]


@app.command()
def create(
    ctx: typer.Context,
    version: Version,
    select: Select,
    stages: Stages = "100",
    canary: Canary = None,
    max_in_progress: MaxInProgress = None,
    max_per_minute: MaxPerMinute = None,
    success_threshold: SuccessThreshold = 95.0,
    error_threshold: ErrorThreshold = 10.0,
    min_sample: MinSample = 5,
    max_failures: MaxFailures = None,
    soak: Soak = "0s",
    on_error: OnError = "pause",
    on_stage_success: OnStageSuccess = "next",
    unreachable_after: UnreachableAfter = "24h",
    window: Window = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    verify: Verify = "version",
    allow_downgrade: AllowDowngrade = False,
    name: Name = None,
    actor: Actor = "system",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the stages and who is left out; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say it for programs, with every device.")] = False,
) -> None:
    """Makes a rollout: each stage begins when the gate of the one before has passed.

    factoryd rollout create --version 2.4.1 --select location=hall-2 --stages 1,10,50,100 --soak 30m
    """
    now = datetime.now(UTC)
    terms = Terms(
        version=version,
        selector=read_selector(select),
        percents=_percents(stages),
        canary=read_selector(canary) if canary is not None else None,
        max_in_progress=max_in_progress,
        max_per_minute=max_per_minute,
        success_threshold_pct=success_threshold,
        error_threshold_pct=error_threshold,
        min_sample=min_sample,
        max_failures=max_failures,
        soak_seconds=read_seconds("soak", soak),
        on_error=on_error,
        on_stage_success=on_stage_success,
        unreachable_after_seconds=read_seconds("unreachable-after", unreachable_after),
        window=window,
        start_at=read_future("start-at", start_at, now),
        end_at=read_future("end-at", end_at, now),
        verify_mode=verify,
        allow_downgrade=allow_downgrade,
        name=name,
        actor=actor,
    )
    _create(ctx, terms, now, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command("list")
def list_(
    ctx: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Only those that are not over.")] = False,
    after: Annotated[int, typer.Option(metavar="ID", help="Go on after this one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 1000,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists rollouts by number, a page at a time."""
    views = list_rollouts(settings_of(ctx).database, after=after, limit=limit + 1, live=live)
    rows = [_row(view) for view in views[:limit]]
    print_rows(rows, COLUMNS, output, "no rollouts; factoryd rollout create makes one")
    if len(views) > limit:
        typer.echo(f"more: --after {views[limit - 1].id}", err=True)


@app.command()
def show(ctx: typer.Context, number: Number, output: OutputOption = Output.TABLE) -> None:
    """Shows a rollout: its stages, the numbers of its gates, what failed and who was left out."""
    view, errors = show_rollout(settings_of(ctx).database, number)
    if output in JSON_FORMS:
        print_one({**rollout_facts(view), "errors": [error._asdict() for error in errors]}, output)
        return
    if output is Output.CSV:
        print_rows([stage_facts(stage) for stage in view.stages], STAGE_COLUMNS, output)
        return
    typer.echo(standing_text(view))
    terms = {name: value for name, value in view.terms.items() if value is not None}
    print_one({"version": view.version, "select": selector_text(view.selector), **terms, **_moments(view)}, output)
    typer.echo()
    print_rows([stage_facts(stage) for stage in view.stages], STAGE_COLUMNS, output)
    for error in errors:
        example = f", such as: {shown(error.example)}" if error.example else ""
        typer.echo(f"failed {error.devices}: {shown(error.code)}{example}")
    for reason, names in view.excluded.items():
        typer.echo(f"left out {len(names)}: {REASONS.get(reason, reason)}")


rollout_acts.register(app)
rollout_watch.register(app)


def _create(ctx: typer.Context, terms: Terms, now: datetime, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    settings = settings_of(ctx)
    salt = None
    if dry_run or not yes:
        plan = plan_rollout(settings.database, terms, now)
        salt = plan.salt
        if as_json and dry_run:
            _say_json({"dry_run": True, **plan_facts(plan)})
            return
        for line in plan_lines(plan):
            typer.echo(line, err=not dry_run)
        if dry_run:
            typer.echo("dry run, nothing was written; the order of the devices is drawn anew for each rollout")
            return
        _ask(len(plan.eligibility.eligible), terms.version)
    created = create_rollout(settings.database, terms, now, max_attempts=settings.ota.max_attempts, salt=salt)
    if as_json:
        _say_json({"id": created.id, "name": created.name, **plan_facts(created.plan)})
        return
    devices, count = len(created.plan.eligibility.eligible), len(created.plan.stages)
    begins = f"begins at {terms.start_at:%Y-%m-%d %H:%M}Z" if terms.start_at is not None else "begins now"
    typer.echo(f"rollout {created.id} created: {devices} devices in {count} stages; it {begins}")
    typer.echo(f"factoryd rollout watch {created.id}", err=True)


def _ask(devices: int, version: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("nobody is there to be asked: give --yes to make the rollout, or --dry-run to look at it")
    typer.confirm(f"bring {version} to {devices} devices?", abort=True, err=True)


def _percents(text: str) -> tuple[float, ...]:
    try:
        return read_stages(text)
    except BadStages as error:
        raise InvalidInput(f"--stages: {error}") from error


def _row(view: RolloutView) -> dict[str, Any]:
    current = next((stage.name for stage in view.stages if stage.status != "passed"), None)
    counts = {name: view.total(name) for name in ("pending", "in_progress", "succeeded", "faults", "rejected")}
    return {**view._asdict(), "stages": None, "stage": current, "devices": view.total("planned"), **counts}


def _moments(view: RolloutView) -> dict[str, Any]:
    names = ("created_by", "created_at", "start_at", "end_at", "started_at", "finished_at")
    return {name: value for name in names if (value := getattr(view, name)) is not None}


def _say_json(facts: dict[str, Any]) -> None:
    typer.echo(json.dumps(facts, default=plain, ensure_ascii=False, indent=2))
