"""The command `factoryd`: `run` is the daemon, all else is for the people who look after it."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from factoryd.command_group import CommandGroup, Entry
from factoryd.commands.invocation import Invocation

EPILOG = (
    "Exit codes: 0 done, 1 failed or not found, 2 wrong usage, 69 database or broker unavailable, 78 settings wrong. "
    "Settings: --config, else factoryd.toml here, else /etc/factoryd/factoryd.toml; FACTORYD_… variables win."
)


class Commands(CommandGroup):
    """All commands, in the order in which a new site meets them."""

    entries: ClassVar[Mapping[str, Entry]] = {
        "run": Entry("factoryd.commands.service", "run", "Run the daemon."),
        "check-config": Entry("factoryd.commands.service", "check_config", "Print the effective settings, or every mistake."),
        "init": Entry("factoryd.commands.schema", "init", "Make the database, its roles and their rights (once)."),
        "migrate": Entry("factoryd.commands.schema", "migrate", "Bring the schema to this version."),
        "status": Entry("factoryd.commands.status", "status", "Show how things stand."),
        "broker": Entry("factoryd.commands.broker", "app", "Look at the broker's settings."),
        "device": Entry("factoryd.commands.device", "app", "Register, watch and look after devices."),
        "threshold": Entry("factoryd.commands.threshold", "app", "Which values raise an alert."),
        "alert": Entry("factoryd.commands.alert", "app", "Look at alerts, and act on them."),
        "firmware": Entry("factoryd.commands.firmware", "app", "Add, sign and release firmware versions."),
        "deployment": Entry("factoryd.commands.deployment", "app", "Bring a firmware version to a device."),
        "rollout": Entry("factoryd.commands.rollout", "app", "Bring a firmware version to many devices, in stages."),
        "query": Entry("factoryd.commands.query", "app", "Readings, charts, active alerts, devices, deployments: fast."),
        "user": Entry("factoryd.commands.user", "app", "People who own devices and act on alerts."),
        "quarantine": Entry("factoryd.commands.quarantine", "app", "Messages that could not be stored."),
        "maintenance": Entry("factoryd.commands.maintenance", "app", "Archive and remove what is past its time."),
        "archive": Entry("factoryd.commands.archive", "app", "Look at what was archived, and bring it back."),
        "verify": Entry("factoryd.commands.verify", "verify_", "Check what must agree."),
        "backup": Entry("factoryd.commands.backup", "app", "Back the database up, restore it, and prove that it works."),
        "demo": Entry("factoryd.commands.demo", "demo", "Show it all: broker, database, daemon and a simulated factory."),
        "simulate": Entry("factoryd.commands.simulate", "simulate", "Play a simulated factory, or a recording."),
    }


app = typer.Typer(cls=Commands, add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, epilog=EPILOG)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"factoryd {version('factoryd')}")
        except PackageNotFoundError:
            typer.echo("factoryd (run from its source, not installed)")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML.")] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One daemon between a factory's MQTT machines and PostgreSQL: every reading stored, exactly once."""
    ctx.obj = Invocation(config)


def main() -> None:
    """Runs the command line."""
    app(prog_name="factoryd")


if __name__ == "__main__":
    main()
