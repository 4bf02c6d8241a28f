"""`factoryd deployment explain`: why a device has not been updated yet, in one line."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, print_json
from factoryd.deployment_reasons import Explanation, explain_device
from storage.refusals import InvalidInput


def explain(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Says in one line each why a device has not been updated yet, or how far it is."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: use table or json")
    found = asyncio.run(explain_device(settings_of(ctx), device, datetime.now(UTC)))
    if output in JSON_FORMS:
        print_json([asdict(each) for each in found], output)
        return
    for each in found:
        typer.echo(_line(device, each))


def _line(device: str, explanation: Explanation) -> str:
    what = f"{device}: {explanation.version} (deployment {explanation.deployment_id})" if explanation.deployment_id else device
    return f"{what}: {explanation.reason}: {explanation.text}" if explanation.reason else f"{what}: {explanation.text}"
