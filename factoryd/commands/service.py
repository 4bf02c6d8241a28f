"""`factoryd run` and `factoryd check-config`."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import structlog
import typer

from config.loading import ConfigError, show_settings
from config.settings import Settings
from factoryd.commands.archive_setting import NOT_SAID
from factoryd.commands.invocation import Invocation, settings_of
from factoryd.logs import configure_logging

log = structlog.get_logger(__name__)

EXIT_AT_ONCE = 1
SAME_SIGNAL_S = 0.3
"""timeout(1) and some shells deliver one signal twice: that is not yet a person's second one."""
DEFAULT_DIRECTORY = Path(".factoryd")


def check_config(ctx: typer.Context) -> None:
    """Prints the effective settings, secrets masked; or every mistake, with exit code 78."""
    for line in show_settings(settings_of(ctx)):
        typer.echo(line)


def run(
    ctx: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="With --embedded: where the services keep their data.")
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run PostgreSQL and mosquitto as children, as far as no URL is given.")
    ] = False,
    mqtt_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="With --embedded: port for devices; default: a free one, kept.")
    ] = None,
    http_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port for metrics and health.")] = None,
) -> None:
    """Runs the daemon until SIGTERM or SIGINT; a second signal ends it at once.

    With --embedded, DIR defaults to .factoryd, and the schema is kept up to date by itself.
    """
    if not embedded and (directory is not None or mqtt_port is not None):
        raise typer.BadParameter("DIR and --mqtt-port belong to --embedded: factoryd run --embedded [DIR]")
    invocation = ctx.find_object(Invocation) or Invocation()
    if http_port is not None:
        invocation.overrides["http"] = {"port": http_port}
    settings = invocation.settings()
    configure_logging(settings.log)
    if embedded:
        from factoryd.commands.embedded_run import run_embedded  # noqa: PLC0415 - the servers' supervisors: only here

        where = directory or DEFAULT_DIRECTORY
        asyncio.run(run_until_signalled(lambda stop: run_embedded(invocation, where, mqtt_port, stop)))
    else:
        require_settings(settings)
        asyncio.run(run_until_signalled(lambda stop: serve(settings, stop), settings.shutdown_timeout_s))


async def run_until_signalled(main: Callable[[asyncio.Event], Awaitable[None]], bound_s: float | None = None) -> None:
    """Runs `main(stop)`: the first SIGTERM or SIGINT sets `stop`, the second ends the process at once.

    So do `bound_s` seconds after the first, even if `main` has ended by then and only a thread still waits for a frozen server.
    """
    stop, loop, first = asyncio.Event(), asyncio.get_running_loop(), [0.0]

    def on_signal() -> None:
        if not stop.is_set():
            first[0] = loop.time()
            stop.set()
            if bound_s is not None:
                loop.call_later(bound_s, _give_up, bound_s)
        elif loop.time() - first[0] > SAME_SIGNAL_S:
            os._exit(EXIT_AT_ONCE)  # crash-only: what is not acknowledged comes again

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await main(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the daemon."""
    from factoryd.daemon import Daemon  # noqa: PLC0415 - check-config needs none of it

    await Daemon(settings).run(stop)


def require_settings(settings: Settings) -> None:
    """Raises ConfigError unless both servers are named, and where data goes that is past its time."""
    missing = [
        f"{name}.url: not set; give it in the settings file or in FACTORYD_{name.upper()}__URL, or use run --embedded"
        for name, section in (("database", settings.database), ("mqtt", settings.mqtt))
        if section.url is None
    ]
    if settings.archive.url is None:
        missing.append(NOT_SAID)
    if missing:
        raise ConfigError("\n".join(missing))


def _give_up(bound_s: float) -> None:
    log.error("shutdown_abandoned", after_s=bound_s, meaning="what is not acknowledged comes again")
    os._exit(EXIT_AT_ONCE)
