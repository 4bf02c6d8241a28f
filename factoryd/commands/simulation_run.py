"""Runs a simulation or a replay, and tells now and then how it goes."""

import asyncio
from collections.abc import Callable

import typer

from simulator.factory import Factory, SimulationPlan, run_simulation
from simulator.replay import ReplayPlan, ReplayReport, run_replay
from simulator.statistics import Statistics
from storage.refusals import InvalidInput

REPORT_S = 5.0


async def simulate_until(plan: SimulationPlan, stop: asyncio.Event) -> None:
    """Runs the factory until `stop` or the plan's end, and prints what it did.

    Raises:
        InvalidInput: the plan names a device or machine type that is not there.
    """
    factories: list[Factory] = []

    def line() -> str:
        return summary(factories[0].statistics) if factories else "starting"

    reporter = asyncio.create_task(_report(line), name="simulation report")
    try:
        statistics = await run_simulation(plan, stop=stop, started=factories.append)
    except LookupError as error:
        raise InvalidInput(str(error.args[0])) from error
    finally:
        reporter.cancel()
    typer.echo(summary(statistics))


async def replay_until(plan: ReplayPlan, stop: asyncio.Event) -> None:
    """Plays the recording until its end or `stop`, and prints what it did.

    Raises:
        RecordingError: it cannot be played as asked.
        BrokerUnavailable: the first connection failed.
    """
    reports: list[ReplayReport] = []

    def line() -> str:
        return replay_summary(reports[0]) if reports else "starting"

    reporter = asyncio.create_task(_report(line), name="replay report")
    try:
        report = await run_replay(plan, stop=stop, started=reports.append)
    finally:
        reporter.cancel()
    typer.echo(replay_summary(report))
    for bad in report.first_bad_rows:
        typer.echo(f"line {bad.line}: {bad.reason}", err=True)


def summary(statistics: Statistics) -> str:
    """Returns the counts in one line."""
    parts = [
        f"{statistics.connected} connected",
        f"{statistics.readings} readings",
        f"{statistics.readings_acknowledged} acknowledged",
    ]
    counts = {name: getattr(statistics, name) for name in ("refused", "dropped", "rejections", "reconnects")}
    parts += [f"{count} {name}" for name, count in counts.items() if count]
    if statistics.last_error and statistics.readings_acknowledged < statistics.readings:
        parts.append(f"last error: {statistics.last_error}")
    return ", ".join(parts)


def replay_summary(report: ReplayReport) -> str:
    """Returns the counts in one line."""
    statistics = report.statistics
    refused = f", {statistics.refused} refused: {statistics.last_error}" if statistics.refused else ""
    devices = len(report.devices)
    return f"{report.rows} rows of {devices} devices, {statistics.acknowledged} acknowledged, {report.bad_rows} bad{refused}"


async def _report(line: Callable[[], str]) -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        typer.echo(line(), err=True)
