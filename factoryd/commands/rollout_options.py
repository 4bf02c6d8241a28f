"""The options of `factoryd rollout create`."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from factoryd.commands.durations import read_duration, read_moment
from storage.refusals import InvalidInput

Version = Annotated[str, typer.Option("--version", metavar="VERSION", help="A released one: factoryd firmware list.")]
Select = Annotated[
    str,
    typer.Option("--select", metavar="KEY=VALUE,…", help="Devices of this type, location, via, owner, device; * is any text."),
]
Canary = Annotated[
    str | None, typer.Option("--canary", metavar="KEY=VALUE,…", help="Those of them that come first, as a stage of their own.")
]
Stages = Annotated[
    str, typer.Option("--stages", metavar="PERCENT,…", help="Cumulative percentages of all devices, such as 1,10,50,100.")
]
MaxInProgress = Annotated[int | None, typer.Option("--max-in-progress", help="At most so many devices at a time.")]
MaxPerMinute = Annotated[int | None, typer.Option("--max-per-minute", help="Begin with at most so many devices a minute.")]
SuccessThreshold = Annotated[
    float, typer.Option("--success-threshold", metavar="PERCENT", help="So many reachable devices must succeed.")
]
ErrorThreshold = Annotated[
    float, typer.Option("--error-threshold", metavar="PERCENT", help="If so many of those that finished failed, it stops.")
]
MinSample = Annotated[int, typer.Option("--min-sample", help="The error threshold counts from so many finished ones on.")]
MaxFailures = Annotated[int | None, typer.Option("--max-failures", help="With so many failures in a stage it stops.")]
Soak = Annotated[str, typer.Option("--soak", metavar="DURATION", help="Wait so long after a stage, and judge it again.")]
OnError = Annotated[str, typer.Option("--on-error", metavar="pause|abort", help="What a failed stage does.")]
OnStageSuccess = Annotated[
    str, typer.Option("--on-stage-success", metavar="next|pause", help="pause: people begin each stage, with resume.")
]
UnreachableAfter = Annotated[
    str, typer.Option("--unreachable-after", metavar="DURATION", help="Not seen for so long, a device is not waited for.")
]
Window = Annotated[
    str | None, typer.Option("--window", metavar="TEXT", help='Begin only then: "mon-fri 22:00-04:00 Europe/Berlin; …".')
]
StartAt = Annotated[str | None, typer.Option("--start-at", metavar="TIME", help="Not before, e.g. 2026-11-22T22:00+01:00.")]
EndAt = Annotated[str | None, typer.Option("--end-at", metavar="TIME", help="What has not begun by then, expires.")]
Verify = Annotated[
    str, typer.Option("--verify", metavar="version|report", help="Success is the version after the reboot, or the report.")
]
AllowDowngrade = Annotated[bool, typer.Option("--allow-downgrade", help="Also devices that run a newer version.")]
Name = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="Default: version and devices.")]
Actor = Annotated[str, typer.Option("--actor", metavar="LOGIN", help="Who does it: factoryd user list.")]


def read_seconds(option: str, text: str) -> float:
    """Returns a duration in seconds.

    Raises:
        InvalidInput: it is none; names the option.
    """
    try:
        return read_duration(text).total_seconds()
    except InvalidInput as error:
        raise InvalidInput(f"--{option}: {error}") from error


def read_future(option: str, text: str | None, now: datetime) -> datetime | None:
    """Returns a moment; a duration such as 2h is from now on.

    Raises:
        InvalidInput: it is none; names the option.
    """
    if text is None:
        return None
    try:
        return now + read_duration(text)
    except InvalidInput:
        pass
    try:
        return read_moment(text, now).astimezone(UTC)
    except InvalidInput as error:
        raise InvalidInput(f"--{option}: {text[:40]!r} is no time; write it like 2h (from now) or 2026-11-22T22:00Z") from error
