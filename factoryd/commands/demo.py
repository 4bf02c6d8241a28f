"""`factoryd demo`: a broker, a database, the daemon and a simulated factory in one process, with one screen to watch."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from alerting.alert import Severity
from config.settings import Settings
from factoryd.commands.embedded_run import embedded_services, embedded_settings, keep_accounts
from factoryd.commands.invocation import Invocation
from factoryd.commands.service import DEFAULT_DIRECTORY, run_until_signalled
from factoryd.commands.simulated_accounts import broker_of, register_all
from factoryd.daemon import Daemon, now
from factoryd.embedded.services import EmbeddedServices
from factoryd.embedded.supervision import supervise
from factoryd.logs import configure_logging
from factoryd.status_screen import connect_lines, run_status_screen
from factoryd.status_source import StatusSource
from simulator.devices import plan_devices
from simulator.factory import PlannedFault, SimulationPlan, run_simulation
from simulator.faults import Fault
from simulator.outages import Outages
from storage.database import open_pool
from storage.overview import load_overview
from storage.refusals import Conflict
from storage.threshold_admin import add_class
from storage.threshold_fields import Threshold

LOG_NAME = "factoryd.log"
THRESHOLDS = (
    (
        {"type": "press"},
        Threshold(
            "temperature",
            max_value=80.0,
            severity=Severity.CRITICAL.value,
            for_seconds=3.0,
            hysteresis=3.0,
            instruction="Stop the press and check its cooling water.",
        ),
    ),
    ({"type": "*"}, Threshold("vibration", max_value=7.1, clear_seconds=5.0)),
)
OVERHEATS_AFTER_S = range(20, 86_400, 300)
"""One press does, for a minute each time: the first alert comes soon."""


def demo(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where everything is kept.")] = DEFAULT_DIRECTORY,
    machines: Annotated[int, typer.Option(min=1, max=1000, help="Simulated machines.")] = 20,
    interval: Annotated[float, typer.Option(min=0.05, max=3600, help="Seconds between a machine's readings.")] = 1.0,
    mqtt_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port for devices; default: a free one, kept.")
    ] = None,
    http_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port for metrics and health.")] = None,
) -> None:
    """Shows what factoryd does: real broker, real database, simulated machines. Ctrl-C ends it; DIR stays."""
    invocation: Invocation = ctx.find_object(Invocation) or Invocation()
    if http_port is not None:
        invocation.overrides["http"] = {"port": http_port}
    invocation.overrides["ota"] = {"allow_unsigned": True}  # nobody keeps a release key for a trial

    async def main(stop: asyncio.Event) -> None:
        await _Demo(invocation, directory, machines, interval).run(stop, mqtt_port)

    asyncio.run(run_until_signalled(main))


class _Demo:
    def __init__(self, invocation: Invocation, directory: Path, machines: int, interval: float) -> None:
        self._invocation = invocation
        self._directory = directory
        self._machines = machines
        self._interval = interval

    async def run(self, stop: asyncio.Event, mqtt_port: int | None) -> None:
        typer.echo(f"starting PostgreSQL and mosquitto in {self._directory} …")
        async with embedded_services(self._invocation, self._directory, mqtt_port) as services:
            settings = embedded_settings(self._invocation, services)
            with (self._directory / LOG_NAME).open("a", encoding="utf-8") as log:
                configure_logging(settings.log, log)
                typer.echo(f"log       {self._directory / LOG_NAME}")
                await self._serve(services, settings, stop)
            configure_logging(settings.log)
        typer.echo(f"stopped; what was stored stays in {self._directory}")

    async def _serve(self, services: EmbeddedServices, settings: Settings, stop: asyncio.Event) -> None:
        daemon = Daemon(settings)
        plan = await asyncio.to_thread(self._plan, services, settings)
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(keep_accounts(services, settings), name="broker accounts")
            running = group.create_task(daemon.run(stop), name="daemon")
            supervising = group.create_task(supervise(services.children), name="supervision")
            watching = group.create_task(self._watch(daemon, services, settings), name="status screen")
            simulating = group.create_task(run_simulation(plan, stop=stop), name="simulation")
            await asyncio.wait({running, simulating}, return_when=asyncio.ALL_COMPLETED)
            for task in (keeper, supervising, watching):
                task.cancel()

    def _plan(self, services: EmbeddedServices, settings: Settings) -> SimulationPlan:
        devices = plan_devices(self._machines, self._interval)
        accounts = register_all(settings, devices)
        for selector, threshold in THRESHOLDS:
            with contextlib.suppress(Conflict):  # there since the last demo
                add_class(settings.database, selector, threshold)
        presses = [device.device for device in devices if device.machine_type == "press"]
        url = f"mqtt://{services.urls.devices_host}:{services.urls.devices_port}"
        return SimulationPlan(
            broker_of(settings, url, accounts),
            devices,
            outages=Outages(mean_interval_s=120.0, longest_s=10.0),
            faults=tuple(
                PlannedFault(after_s, device, Fault.OVERHEATING, lasts_s=60.0, rate=8.0)
                for device in presses[:1]
                for after_s in OVERHEATS_AFTER_S
            ),
        )

    async def _watch(self, daemon: Daemon, services: EmbeddedServices, settings: Settings) -> None:
        urls = services.urls
        address = await daemon.listening
        connect = connect_lines(
            database_url=urls.database_tools_url,
            mqtt_url=urls.mqtt_tools_url,
            http_url=address.url,
            topic=f"{settings.mqtt.root}/#",
        )
        async with open_pool(settings.database) as pool:
            source = StatusSource(daemon.registry.collect, lambda: load_overview(pool), now)
            with contextlib.suppress(ConnectionError):
                await run_status_screen(source, connect)
