"""Starts an embedded service again after it has died, as the system's service manager would."""

import asyncio
import random
from collections.abc import Iterable
from typing import Protocol

import structlog

from factoryd.embedded.directory import EmbeddedServiceError

log = structlog.get_logger(__name__)

POLL_S = 0.2
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A service that has lived so long is restarted without a long pause."""


class Service(Protocol):
    """A child that can be started again."""

    @property
    def name(self) -> str:
        """For the log."""
        ...

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        ...

    async def astart(self) -> None:
        """Starts it; raises EmbeddedServiceError if it does not come up."""
        ...


async def supervise(services: Iterable[Service]) -> None:
    """Restarts whatever dies, with growing, jittered pauses, until cancelled: cancel it before the services are stopped."""
    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(_keep(service), name=f"supervision of {service.name}")


async def _keep(service: Service) -> None:
    clock, restarts, hasty = asyncio.get_running_loop().time, 0, 0
    while True:
        started_s = clock()
        while service.alive:  # noqa: ASYNC110 - a child's end is no event of the loop
            await asyncio.sleep(POLL_S)
        hasty = 0 if clock() - started_s > STEADY_S else hasty + 1
        await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE_S, 0.1 * 2 ** min(hasty, 10))))  # noqa: S311
        try:
            await service.astart()
        except EmbeddedServiceError as error:
            log.error("service_not_restarted", service=service.name, error=str(error))
        else:
            restarts += 1
            log.warning("service_restarted", service=service.name, restarts=restarts)
