"""What the embedded services keep on disk between runs: secrets, chosen ports, private files, and the lock on all of it."""

import fcntl
import os
import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
NOT_GIVEN_OUT = range(20_000, 32_768)


class EmbeddedServiceError(RuntimeError):
    """An embedded service cannot run here; the text says what happened and what to do next."""


class DirectoryLock:
    """Holds a directory for one process; the kernel lets go of it however the process ends (flock)."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._path = directory / f"{name}.lock"
        self._fd: int | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode().strip() or "unknown"
            os.close(fd)
            raise EmbeddedServiceError(
                f"{self._directory} is in use by another factoryd (process {holder}); stop that one, or use another directory"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._fd = fd
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600 in one step: a reader sees the old or the new text, never half of it."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def kept_secret(path: Path) -> str:
    """Returns the secret kept in `path` (0600), made on first use: 192 random bits, URL-safe without escaping."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="utf-8").strip()


def kept_port(path: Path, given: int | None = None) -> int:
    """Returns the TCP port to listen on at loopback.

    A given port is taken as it is. Else the one used last time (kept in `path`) if it is still free, so that addresses
    noted down elsewhere stay right over a restart; else a free one.

    Raises:
        EmbeddedServiceError: the given port is taken by another program.
    """
    if given:
        if not is_free(given):
            raise EmbeddedServiceError(
                f"port {given} on {LOOPBACK} is taken by another program; stop that one, or choose another port"
            )
        return given
    last = int(path.read_text(encoding="utf-8")) if path.exists() else 0
    port = last if last and is_free(last) else free_port()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, str(port))
    return port


def is_free(port: int) -> bool:
    """Tells whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do it: without this, connections in TIME_WAIT would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Returns a loopback port that is free now.

    Preferably one that the kernel gives to nobody's outgoing connection (below Linux's usual range): a server that is started
    anew, while its many clients try to reach it, would find its port taken by one of them.
    """
    for port in secrets.SystemRandom().sample(NOT_GIVEN_OUT, 50):
        if is_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
