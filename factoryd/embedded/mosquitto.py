"""mosquitto as a supervised child: for development, the demo and tests.

It runs on the project's own mosquitto.conf, with ports and paths of its own: one listener for devices, which are known by their
user names, and one for factoryd and a person's tools.
"""

import asyncio
import signal
import socket
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from factoryd.embedded.binaries import find_mosquitto
from factoryd.embedded.child import Child, hand_over
from factoryd.embedded.directory import LOOPBACK, DirectoryLock, EmbeddedServiceError, kept_port, kept_secret, write_private
from factoryd.embedded.fetch import fetched_mosquitto
from mqtt.access import Account, hash_secret, render_acl, render_passwords

DAEMON_USER = "factoryd"
TOOLS_USER = "factoryd-tools"
START_TIMEOUT_S = 60.0
"""Long: a full queue of a million messages is read back first."""
STOP_TIMEOUT_S = 60.0
"""Long: it is written at an orderly stop."""


class EmbeddedMosquitto:
    """A broker that keeps its sessions in `directory`.

    `with` and `async with` start and stop it. Start it from a thread that lives as long as it is to live: the kernel ends the
    broker with that thread (`async with` in the main thread does right).
    """

    def __init__(
        self,
        directory: Path,
        *,
        devices_port: int | None = None,
        root: str = "factory",
        sources: Iterable[str] = (),
        program: Path | None = None,
        search: bool = True,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares nothing yet.

        Args:
            directory: holds sessions, log, ports and secrets; used by one process at a time.
            devices_port: TCP port on loopback for devices; default: the last one used, else a free one.
            root: first levels of every topic, for the access rules.
            sources: templates of further telemetry topics, e.g. `tele/{device}/SENSOR`.
            program: the mosquitto to run; default: see `find_mosquitto`, else one is fetched into `directory`.
            search: False fetches it even if one is installed.
            options: lines of mosquitto.conf to change, e.g. {"autosave_interval": "1"}.
        """
        self._directory = directory.absolute()
        self._given_devices_port = devices_port
        self._root = root
        self._sources = tuple(sources)
        self._program = program
        self._search = search
        self._options = dict(options or {})
        self._accounts: tuple[Account, ...] = ()
        self._ports: tuple[int, int] | None = None
        self._lock = DirectoryLock(self._directory, "mosquitto")
        self._locked = False
        self._child = Child("mosquitto", self._directory, signal.SIGTERM)

    @property
    def devices_port(self) -> int:
        """The TCP port for devices; known once started."""
        return self._known_ports()[0]

    @property
    def internal_port(self) -> int:
        """The TCP port for factoryd and tools; known once started."""
        return self._known_ports()[1]

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self._child.name

    @property
    def alive(self) -> bool:
        """Whether the broker's process is there."""
        return self._child.running

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        return self._child.pid

    @property
    def log_path(self) -> Path:
        """The broker's log."""
        return self._child.log_path

    @property
    def url(self) -> str:
        """The broker as factoryd reaches it."""
        return self._url(DAEMON_USER)

    @property
    def tools_url(self) -> str:
        """The broker as a person's tools reach it: this account may do everything."""
        return self._url(TOOLS_USER)

    def start(self) -> None:
        """Starts the broker and returns when both listeners accept connections; also starts it again after `crash`.

        Raises:
            EmbeddedServiceError: there is no mosquitto and none can be fetched, the directory is another process's, a port
                is taken, or the broker ended during its start.
        """
        command, environment = self._prepare()
        self._child.start(command, environment)
        self._wait_ready()

    def stop(self) -> None:
        """Stops the broker in order: it writes its sessions and queues."""
        self._child.stop(signal.SIGTERM, STOP_TIMEOUT_S)
        self._unlock()

    def crash(self) -> None:
        """Kills the broker (SIGKILL) as a fault test does; `start` brings back what its last snapshot held."""
        self._child.kill()

    def set_accounts(self, accounts: Iterable[Account]) -> None:
        """Lets these devices in, and no others; a running broker takes it over at once and disconnects removed ones."""
        self._accounts = tuple(accounts)
        if self._child.running:
            self._write_access()
            self._child.send(signal.SIGHUP)

    async def astart(self) -> None:
        """As `start`, without blocking the event loop; the broker lives as long as the event loop's thread."""
        command, environment = await asyncio.to_thread(self._prepare)
        self._child.start(command, environment)
        await asyncio.to_thread(self._wait_ready)

    async def astop(self) -> None:
        """As `stop`, without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.astop()

    def _prepare(self) -> tuple[list[str], dict[str, str]]:
        if not self._locked:
            self._lock.__enter__()
            self._locked = True
        try:
            hand_over(self._directory)
            program, environment = self._find()
            self._child.end_orphan()
            given = self._ports or (self._given_devices_port, None)
            devices = kept_port(self._directory / "devices_port", given[0])
            self._ports = devices, kept_port(self._directory / "internal_port", given[1])
            self._write_access()
            write_private(self._conf_path, self._conf())
            (self._directory / "sessions").mkdir(mode=0o700, exist_ok=True)
            hand_over(self._directory)
        except BaseException:
            self._unlock()
            raise
        return [str(program), "-c", str(self._conf_path)], environment

    def _find(self) -> tuple[Path, dict[str, str]]:
        found = find_mosquitto(self._program) if self._search else None
        return (found, {}) if found else fetched_mosquitto(self._directory / "fetched")

    def _conf(self) -> str:
        changes = {
            "listener 1883": f"listener {self.devices_port} {LOOPBACK}",
            f"listener 1884 {LOOPBACK}": f"listener {self.internal_port} {LOOPBACK}",
            "persistence_location": f"persistence_location {self._directory}/sessions/",
            "password_file": f"password_file {self._passwords_path}",
            "acl_file": f"acl_file {self._acl_path}",
            **{name: f"{name} {value}" for name, value in self._options.items()},
        }
        return changed_conf(conf_template(), changes)

    def _write_access(self) -> None:
        own = [Account(user, hash_secret(self._secret(user))) for user in (DAEMON_USER, TOOLS_USER)]
        passwords = render_passwords([*own, *self._accounts])
        rules = render_acl(self._root, DAEMON_USER, TOOLS_USER, self._accounts, self._sources)
        for path, text in ((self._passwords_path, passwords), (self._acl_path, rules)):
            write_private(path, text)
            hand_over(path)

    def _wait_ready(self) -> None:
        try:
            self._child.wait_until(self._accepts, START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

    def _accepts(self) -> bool:
        try:
            for port in (self.devices_port, self.internal_port):
                socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            return False
        return self._child.running

    def _known_ports(self) -> tuple[int, int]:
        if self._ports is None:
            raise EmbeddedServiceError("mosquitto was not started yet")
        return self._ports

    def _url(self, user: str) -> str:
        return f"mqtt://{user}:{quote(self._secret(user), safe='')}@{LOOPBACK}:{self.internal_port}"

    def _secret(self, user: str) -> str:
        return kept_secret(self._directory / f"{user}.secret")

    @property
    def _conf_path(self) -> Path:
        return self._directory / "mosquitto.conf"

    @property
    def _passwords_path(self) -> Path:
        return self._directory / "passwords"

    @property
    def _acl_path(self) -> Path:
        return self._directory / "access"

    def _unlock(self) -> None:
        self._lock.__exit__(None, None, None)
        self._locked = False


def conf_template() -> str:
    """Returns the text of the project's mosquitto.conf, a copy of which is part of this package."""
    return (files("factoryd.embedded") / "mosquitto.conf").read_text(encoding="utf-8")


def changed_conf(template: str, changes: Mapping[str, str]) -> str:
    """Returns a mosquitto.conf with lines replaced, each known by its first words.

    Raises:
        ValueError: a line to replace is not there exactly once.
    """
    lines = template.splitlines()
    for start, replacement in changes.items():
        found = [number for number, line in enumerate(lines) if line == start or line.startswith(f"{start} ")]
        if len(found) != 1:
            raise ValueError(f"mosquitto.conf has {len(found)} lines that start with {start!r}, expected one")
        lines[found[0]] = replacement
    return "\n".join([*lines, ""])
