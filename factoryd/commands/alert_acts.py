"""`factoryd alert ack`, `resolve`, `shelve`, `unshelve`, `comment`: the daemon does it, and says what came of it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from alerting.operators import LONGEST_SHELVING, MAX_NOTE, SHELVING
from factoryd.commands.durations import DURATION, read_duration, read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.threshold_texts import duration_text
from storage.operator_requests import SYSTEM, Act, NotCarriedOut, ask
from storage.refusals import Conflict, InvalidInput

PATIENCE_S = 5.0
LONGEST, USUAL = (duration_text(span.total_seconds()) for span in (LONGEST_SHELVING, SHELVING))

Ids = Annotated[list[int], typer.Argument(metavar="ID", help="As alert list shows them.")]
Note = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Kept in the alert's history.")]
Actor = Annotated[
    str, typer.Option("--actor", metavar="LOGIN", help="Who does it; the role decides on which alerts: factoryd user list.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (ack, resolve, shelve, unshelve, comment):
        app.command()(command)


def ack(ctx: typer.Context, ids: Ids, note: Note = None, actor: Actor = SYSTEM) -> None:
    """Says that somebody looks after these alerts."""
    _carry_out(ctx, Act(actor, "acknowledge", ids, note))


def resolve(ctx: typer.Context, ids: Ids, note: Note = None, actor: Actor = SYSTEM) -> None:
    """Ends these alerts; the next crossing is a new one."""
    _carry_out(ctx, Act(actor, "resolve", ids, note))


def shelve(
    ctx: typer.Context,
    ids: Ids,
    for_: Annotated[str | None, typer.Option("--for", metavar="DURATION", help=f"At most {LONGEST}; default: {USUAL}.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Instead: until then, e.g. 2026-11-22T16:00+01:00.")] = None,
    sticky: Annotated[bool, typer.Option("--sticky", help="Also the next alerts of the same threshold.")] = False,
    note: Note = None,
    actor: Actor = SYSTEM,
) -> None:
    """Holds the messages about these alerts for a while: only a resolve is told. Recording goes on."""
    span = _span(for_) if for_ is not None else None
    moment = _moment(until) if until is not None else None
    if span is not None and moment is not None:
        raise InvalidInput("give --for or --until, not both")
    _carry_out(ctx, Act(actor, "shelve", ids, note, moment, span, sticky))


def unshelve(ctx: typer.Context, ids: Ids, note: Note = None, actor: Actor = SYSTEM) -> None:
    """Ends shelving now, the sticky one, too."""
    _carry_out(ctx, Act(actor, "unshelve", ids, note))


def comment(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="As alert list shows it.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Kept in the alert's history.")],
    actor: Actor = SYSTEM,
) -> None:
    """Writes into an alert's history."""
    if not text.strip():
        raise InvalidInput("a comment needs a text")
    _carry_out(ctx, Act(actor, "comment", [number], text))


def _carry_out(ctx: typer.Context, act: Act) -> None:
    """Prints what was done.

    Raises:
        Conflict: the daemon refused some of it.
        NotCarriedOut: there is no answer yet.
    """
    if act.note is not None and len(act.note) > MAX_NOTE:
        raise InvalidInput(f"note: {len(act.note)} characters are too many, at most {MAX_NOTE} fit")
    asked = ask(settings_of(ctx).database, act, PATIENCE_S)
    troubles = []
    for answer in asked.answers:
        if answer.outcome == "done":
            typer.echo(answer.detail)
        else:
            troubles.append(answer.detail)
    late = None
    if asked.waiting:
        alerts = ", ".join(map(str, asked.waiting))
        late = (
            f"alert {alerts}: no answer within {PATIENCE_S:g} s; the request is stored, and is carried out when the daemon runs"
        )
    if troubles:
        raise Conflict("\n".join(filter(None, [*troubles, late])))
    if late:
        raise NotCarriedOut(f"{late} (factoryd status)")


def _span(text: str) -> timedelta:
    span = read_duration(text)
    if not timedelta() < span <= LONGEST_SHELVING:
        raise InvalidInput(f"--for {text}: shelve for at most {LONGEST}, and for more than nothing")
    return span


def _moment(text: str) -> datetime:
    if DURATION.fullmatch(text.strip().lower()):
        raise InvalidInput(f"--until {text} is a duration: write --for {text}")
    now = datetime.now(UTC)
    moment = read_moment(text, now)
    if moment <= now:
        raise InvalidInput(f"--until {text}: is past; a time without an offset is UTC")
    return moment
