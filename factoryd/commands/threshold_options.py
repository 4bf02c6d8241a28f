"""The options by which people say what a threshold watches for, the same wherever they are given."""

from typing import Annotated, Any

import typer

from factoryd.commands.threshold_texts import read_values

Min = Annotated[str | None, typer.Option("--min", metavar="VALUE", help="Lowest good value, in the metric's unit.")]
Max = Annotated[str | None, typer.Option("--max", metavar="VALUE", help="Highest good value.")]
SeverityName = Annotated[
    str | None, typer.Option("--severity", metavar="info|warning|critical", help="Of its alerts; default: warning.")
]
For = Annotated[str | None, typer.Option("--for", metavar="DURATION", help="How long beyond the limit, e.g. 30s.")]
Hysteresis = Annotated[
    str | None, typer.Option("--hysteresis", metavar="VALUE", help="How far back inside the limit it must come to be over.")
]
Clear = Annotated[str | None, typer.Option("--clear", metavar="DURATION", help="How long it must be back, e.g. 1m.")]
MaxGap = Annotated[
    str | None,
    typer.Option(
        "--max-gap", metavar="DURATION", help="Readings further apart begin a delay anew; default: 3 x the device's interval."
    ),
]
NoData = Annotated[
    str | None, typer.Option("--no-data", metavar="DURATION", help="Alert when the metric has not come for so long.")
]
Instruction = Annotated[str | None, typer.Option("--instruction", metavar="TEXT", help="What to do.")]
Owner = Annotated[str | None, typer.Option("--owner", metavar="LOGIN", help="Owner of its alerts; default: the device's.")]
Classes = Annotated[list[int] | None, typer.Option("--class", metavar="ID", help="Also this class; may be repeated.")]


def values_of(
    low: str | None,
    high: str | None,
    severity: str | None,
    for_: str | None,
    hysteresis: str | None,
    clear: str | None,
    max_gap: str | None,
    no_data: str | None,
    instruction: str | None,
    owner: str | None,
) -> dict[str, Any]:
    """Returns what was said, by the fields of Threshold.

    Raises:
        InvalidInput: with the first option that cannot be used.
    """
    limits = {"min": low, "max": high, "severity": severity, "hysteresis": hysteresis}
    times = {"for": for_, "clear": clear, "max-gap": max_gap, "no-data": no_data}
    return read_values({**limits, **times, "instruction": instruction, "owner": owner})
