"""`factoryd verify`: what must agree in the database, and between it and the archive."""

import json
from collections.abc import Iterator

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption
from factoryd.exit_codes import ExitCode
from storage.archive_listing import compare_with_archive
from storage.integrity import Checked, verify
from storage.job_runs import job_run
from storage.refusals import Conflict, InvalidInput


class Disagreements(Conflict):
    """Something does not agree."""


def verify_(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Checks what must agree: partitions, archive, roll-ups, alerts, deployments. Exit code 1 if something does not.

    Changes nothing. Files of the archive are held against the manifest by name and size; factoryd archive verify reads them.
    """
    if output is Output.CSV:
        raise InvalidInput("-o csv: verify is no list; use table or json")
    settings = settings_of(ctx)
    found: list[Checked] = []

    def checks() -> Iterator[Checked]:
        yield from verify(settings.database)
        yield from compare_with_archive(settings)

    try:
        with job_run(settings.database, "verify") as detail:
            for checked in checks():
                found.append(checked)
                if output is Output.TABLE:
                    typer.echo(f"{'good' if not checked.problems else 'BAD':5} {checked.name}")
                    for problem in checked.problems:
                        typer.echo(f"      {problem}")
            problems = [problem for checked in found for problem in checked.problems]
            detail.update({"checks": len(found), "problems": len(problems)})
            if problems:
                raise Disagreements(f"{len(problems)} things do not agree; the first: {problems[0]}")
    except Disagreements as error:
        if output is Output.JSON:
            _print_json(found)
        typer.echo(f"factoryd: {error}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    if output is Output.JSON:
        _print_json(found)


def _print_json(found: list[Checked]) -> None:
    told = [{"check": checked.name, "good": not checked.problems, "problems": checked.problems} for checked in found]
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
