"""Runs one server as a supervised child: unprivileged, logged to a file, and never outliving this process.

Development and tests only. In production the system's service manager does all this, and better.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from factoryd.embedded.directory import EmbeddedServiceError

NOBODY = "65534"
"""User and group `nobody`, which every system has in its passwd file: PostgreSQL refuses an id without an entry there."""

POLL_S = 0.01
LOG_MAX_BYTES = 10 * 1024 * 1024


class Child:
    """A server process that ends when its parent does.

    On Linux the kernel sends `death_signal` to the child when the *thread* that called `start` ends, even by SIGKILL: so call
    `start` from a thread that lives as long as the server is to live (the main thread). Elsewhere an orphan left by a killed
    parent is found by its pid file and ended at the next start.
    """

    def __init__(self, name: str, directory: Path, death_signal: signal.Signals) -> None:
        """`directory` gets `{name}.log` and `{name}.pid`; it must be held by a `DirectoryLock`."""
        self.name = name
        self.log_path = directory / f"{name}.log"
        self._pid_path = directory / f"{name}.pid"
        self._marker = str(directory)
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            EmbeddedServiceError: it was not started.
        """
        if self._process is None:
            raise EmbeddedServiceError(f"{self.name} is not running; start it first")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Starts the server (its command line must name the directory, so that an orphan can be known by it)."""
        self.end_orphan()
        self._turn_log()
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*unprivileged(), *_tied(self._death_signal), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._marker,
                env={**os.environ, **(environment or {})},
                # A session of its own: Ctrl-C at the terminal is for us; we then stop the servers in the right order.
                start_new_session=True,
            )
        self._pid_path.write_text(str(self._process.pid), encoding="ascii")

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Waits until `ready()`; asks it every 10 ms as long as the process lives.

        Raises:
            EmbeddedServiceError: the process ended or took too long; the text ends with the last lines of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise EmbeddedServiceError(f"{self.name} ended during its start:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedServiceError(
                    f"{self.name} was not ready after {timeout_s:g} s; its log {self.log_path} ends with:\n{self.log_tail()}"
                )
            time.sleep(POLL_S)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the running server."""
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals, timeout_s: float) -> None:
        """Sends `number` and waits for the end; after `timeout_s` it is killed. Nothing to do if it is not running."""
        if self._process is None:
            return
        if self.running:
            self.send(number)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def kill(self) -> None:
        """Kills the server with SIGKILL, as a fault test does, and waits for its end."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._forget()

    def log_tail(self, lines: int = 8) -> str:
        """Returns the last lines that this run of the server wrote to its log."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def end_orphan(self, timeout_s: float = 60.0) -> None:
        """Ends the server that an earlier, killed run of ours left behind, or waits for it to finish ending.

        Raises:
            EmbeddedServiceError: it does not end in time.
        """
        pid = read_pid(self._pid_path)
        if pid is None or self._marker not in command_line(pid):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, self._death_signal)
        deadline = time.monotonic() + timeout_s
        while self._marker in command_line(pid):
            if time.monotonic() > deadline:
                raise EmbeddedServiceError(f"{self.name} of an earlier run (process {pid}) does not end; kill it")
            time.sleep(POLL_S)

    def _forget(self) -> None:
        self._process = None
        self._pid_path.unlink(missing_ok=True)

    def _turn_log(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_MAX_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))


def read_pid(path: Path) -> int | None:
    """Returns the process id on the first line of a pid file, or None if there is none."""
    try:
        return int(path.read_text(encoding="ascii").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def command_line(pid: int) -> str:
    """Returns the arguments of a process, joined by blanks; empty if it ended (a zombie has none either)."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return ""
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout


@cache
def unprivileged() -> tuple[str, ...]:
    """Returns the command prefix under which a server does not see itself as root; empty for an ordinary user.

    PostgreSQL refuses root, and mosquitto started as root drops it, by which the kernel forgets the death signal. A user
    namespace that maps us to `nobody` needs no account and leaves the files ours. Outside of it the process is still user 0,
    though without capabilities: good for development, not a protection. Where namespaces are forbidden (Docker's default
    seccomp profile), the process really becomes `nobody`.
    """
    if os.geteuid() != 0:
        return ()
    namespace = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
    try:
        if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0:
            return namespace
    except FileNotFoundError as error:
        raise EmbeddedServiceError("the embedded services cannot run as root here (no unshare); run as another user") from error
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


def hand_over(path: Path) -> None:
    """Gives a directory or file to the user under which `unprivileged` runs the servers, where that is another one than ours.

    Raises:
        EmbeddedServiceError: that user cannot get there.
    """
    if unprivileged()[:1] != ("setpriv",):
        return
    for item in (path, *path.rglob("*")):
        os.chown(item, int(NOBODY), int(NOBODY), follow_symlinks=False)
    if subprocess.run([*unprivileged(), "test", "-r", str(path)], check=False).returncode != 0:
        raise EmbeddedServiceError(
            f"the servers cannot run as root, and user {NOBODY} cannot reach {path}; "
            "run as an ordinary user, or use a directory below one that all may enter"
        )


def _tied(number: signal.Signals) -> tuple[str, ...]:
    # setpriv (util-linux) sets PR_SET_PDEATHSIG between fork and exec of the server, after the user was changed (which would
    # clear it): no Python code runs in the forked child, which is unsafe beside threads.
    if not sys.platform.startswith("linux"):
        return ()
    return ("setpriv", f"--pdeathsig={number.name.removeprefix('SIG')}", "--")
