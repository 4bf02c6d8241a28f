"""Talks to systemd (sd_notify, Type=notify): started, stopping, a status line, and a watchdog that is fed by progress only.

The watchdog restarts a process whose event loop hangs or whose writer is stuck. It must not restart one that waits for a
database or a broker that is away: a restart would mend nothing.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

DEFAULT_TICK_S = 10.0
"""Between two messages if systemd watches over no watchdog."""
STALL_S = 60.0
"""Longest time without progress: twice database.statement_timeout_s, after which a stuck transaction has failed by itself."""


class Notifier:
    """Sends state to the service manager; does nothing without one."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self._running = False
        self._status = ""
        self._silent = False
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Notifier":
        """Takes NOTIFY_SOCKET, and WATCHDOG_USEC unless WATCHDOG_PID names another process (sd_watchdog_enabled(3))."""
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if ours else ""
        return cls(environment.get("NOTIFY_SOCKET") or None, int(microseconds) / 1e6 if microseconds.isdigit() else None)

    @property
    def enabled(self) -> bool:
        """True under a service manager that listens."""
        return self._address is not None

    @property
    def tick_s(self) -> float:
        """Seconds between two signs of life: half the watchdog's interval."""
        return self.watchdog_s / 2 if self.watchdog_s else DEFAULT_TICK_S

    def ready(self) -> None:
        """Started: other services that wait for us may start. Only the first call counts."""
        if not self._running:
            self._running = True
            self._send("READY=1")

    def stopping(self) -> None:
        """The orderly end has begun; from now on `alive` asks for more time."""
        self._running = False
        self._send("STOPPING=1", self._more_time())

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it changes."""
        line = " ".join(text.split())
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def alive(self) -> None:
        """Feeds the watchdog; while starting or stopping it puts off the time-out as well."""
        lines = ["WATCHDOG=1"] if self.watchdog_s else []
        self._send(*lines, *([] if self._running else [self._more_time()]))

    def _more_time(self) -> str:
        return f"EXTEND_TIMEOUT_USEC={round(self.tick_s * 3 * 1_000_000)}"

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            if not self._silent:
                log.warning("service_manager_not_reached", address=self._address, error=str(error))
            self._silent = True


class Signs(NamedTuple):
    """What the watchdog looks at."""

    loop_lag_s: float
    """Longest lag of the event loop since the last look."""
    settled: float
    """Any count that rises with each batch that was committed or tried again."""
    waiting: int
    """Readings received and not yet settled."""
    database_away: bool


class Progress:
    """PURE. Decides whether the process still does its work."""

    def __init__(self, stall_s: float = STALL_S) -> None:
        self._stall_s = stall_s
        self._settled = -1.0
        self._moved_at_s: float | None = None

    def seen(self, at_s: float, signs: Signs) -> tuple[bool, str]:
        """Returns whether the watchdog may be fed at this moment (seconds of a steady clock), and why not."""
        if signs.loop_lag_s > self._stall_s:
            return False, f"the event loop was held for {signs.loop_lag_s:.0f} s"
        excused = signs.waiting == 0 or signs.database_away
        if excused or signs.settled != self._settled or self._moved_at_s is None:
            self._settled, self._moved_at_s = signs.settled, at_s
            return True, ""
        stalled = at_s - self._moved_at_s
        if stalled < self._stall_s:
            return True, ""
        return False, f"{signs.waiting} readings have been waiting for {stalled:.0f} s and no batch was tried"


async def feed_watchdog(
    notifier: Notifier, look: Callable[[], Signs], describe: Callable[[], str], progress: Progress | None = None
) -> None:
    """Gives a sign of life at half the watchdog's interval while there is progress, until cancelled.

    Without a service manager it only waits: the caller need not care.
    """
    judge, clock = progress or Progress(), asyncio.get_running_loop().time
    fed = True
    while notifier.enabled:
        notifier.status(describe())
        was, (fed, reason) = fed, judge.seen(clock(), look())
        if fed:
            notifier.alive()
        elif was:
            log.error("watchdog_starved", reason=reason, next="the service manager restarts us; nothing acknowledged is lost")
        await asyncio.sleep(notifier.tick_s)
    await asyncio.get_running_loop().create_future()
