"""`factoryd rollout watch`: how far a rollout is, live, stage by stage."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from config.settings import DatabaseSettings
from factoryd.commands.invocation import settings_of
from factoryd.commands.rollout_texts import rollout_facts, stage_text, standing_text
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, plain, shown
from storage.command_connection import command_connection
from storage.refusals import InvalidInput
from storage.rollout_views import RolloutView, StageView, load_rollout

POLL_S = 0.5


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(watch)


def watch(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="As rollout list shows it.")],
    once: Annotated[bool, typer.Option("--once", help="Say how it stands now, and end.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows a rollout as it goes on, until it is over; Ctrl-C ends the watching, not the rollout."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: a stream is no list; use table or json (one object per line)")
    views = watch_rollout(settings_of(ctx).database, number, once=once)
    try:
        if output is Output.TABLE and sys.stdout.isatty() and not once:
            _draw(views)
        else:
            _say(views, output)
    except KeyboardInterrupt:
        return


def watch_rollout(settings: DatabaseSettings, number: int, *, once: bool = False) -> Iterator[RolloutView]:
    """Yields a rollout whenever it has changed, the last time when it is over.

    Raises:
        NotFound: there is none of that number.
        DatabaseUnavailable: the connection failed or ended.
    """
    last = None
    with command_connection(settings) as connection:
        while True:
            view = load_rollout(connection, number)
            if view != last:
                yield view
            last = view
            if once or view.over:
                return
            time.sleep(POLL_S)


def _say(views: Iterator[RolloutView], output: Output) -> None:
    for view in views:
        if output in JSON_FORMS:
            typer.echo(json.dumps(rollout_facts(view), default=plain, ensure_ascii=False))
            continue
        typer.echo(standing_text(view))
        for stage in view.stages:
            typer.echo(f"  {stage_text(stage)}")


def _draw(views: Iterator[RolloutView]) -> None:
    from rich.progress import BarColumn, Progress, TaskID, TextColumn  # noqa: PLC0415 - only where a person looks

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[said]}", markup=False))
    with Progress(*columns) as progress:
        bars: dict[int, TaskID] = {}
        said = ""
        for view in views:
            if (text := standing_text(view)) != said:
                progress.console.print(text, markup=False, highlight=False)
                said = text
            for stage in view.stages:
                if stage.stage_no not in bars:
                    bars[stage.stage_no] = progress.add_task(f"stage {shown(stage.name)}", total=stage.planned or 1, said="")
                progress.update(
                    bars[stage.stage_no], completed=reached(stage), said=stage_text(stage).partition("  ")[2].strip()
                )


def reached(stage: StageView) -> float:
    """PURE. Returns how far a stage is, in devices; those under way count by their progress."""
    return stage.ended + stage.in_progress * stage.progress / 100
