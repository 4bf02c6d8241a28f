"""Fetches mosquitto without root on Debian and Ubuntu: into a directory of ours, no system service, nothing installed."""

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from factoryd.embedded.directory import EmbeddedServiceError

INSTALL_IT = (
    "install it (apt-get install mosquitto, brew install mosquitto, or from mosquitto.org) and start again, "
    "or give the URL of a running broker in FACTORYD_MQTT__URL"
)
TIMEOUT_S = 120.0


def fetched_mosquitto(directory: Path) -> tuple[Path, dict[str, str]]:
    """Returns mosquitto's program in `directory` and the environment it needs; downloads it (2 s, 2 MB) if it is not there.

    The packages come from the machine's own, signed package sources.

    Raises:
        EmbeddedServiceError: this is no Debian or Ubuntu, or the packages cannot be had; the text says how to install it.
    """
    root = directory / "root"
    if not (root / "usr/sbin/mosquitto").exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise EmbeddedServiceError(f"no mosquitto found on this {platform.system()} machine; {INSTALL_IT}")
        fresh = directory / "root.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _unpack(_download(directory), fresh)
        fresh.rename(root)
    return root / "usr/sbin/mosquitto", {"LD_LIBRARY_PATH": ":".join(str(path) for path in _library_directories(root))}


def _download(directory: Path) -> list[Path]:
    debs = directory / "debs"
    for path in (directory / "lists/partial", directory / "cache/archives/partial", debs):
        path.mkdir(parents=True, exist_ok=True)
    # Lists and cache of our own: no root needed, and the system's are neither changed nor relied on.
    places = [f"Dir::State::lists={directory / 'lists'}", f"Dir::Cache={directory / 'cache'}"]
    own = [*places, "APT::Sandbox::User=", "Debug::NoLocking=1"]
    apt = ["apt-get", "-qq", *(part for option in own for part in ("-o", option))]
    _run([*apt, "update"], debs)
    # What apt would install: mosquitto and those of its libraries that this machine lacks.
    plan = _run([*apt, "install", "--no-install-recommends", "--reinstall", "--print-uris", "-y", "mosquitto"], debs)
    packages = re.findall(r"^'[^']+' ([^_ ]+)_", plan, re.MULTILINE)
    wanted = [name for name in packages if name == "mosquitto" or name.startswith("lib")]
    _run([*apt, "download", *wanted], debs)
    shutil.rmtree(directory / "lists")
    return sorted(debs.glob("*.deb"))


def _unpack(debs: Sequence[Path], root: Path) -> None:
    for deb in debs:
        _run(["dpkg", "-x", str(deb), str(root)], root)
    for path in _library_directories(root):
        # Some packages leave the links to their libraries to ldconfig.
        _run([shutil.which("ldconfig", path="/sbin:/usr/sbin") or "ldconfig", "-n", str(path)], root)


def _library_directories(root: Path) -> list[Path]:
    return sorted({path.parent for path in (root / "usr/lib").glob("*/lib*.so*")})


def _run(command: Sequence[str], directory: Path) -> str:
    try:
        run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise EmbeddedServiceError(f"mosquitto could not be fetched ({error.stderr.strip()}); {INSTALL_IT}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise EmbeddedServiceError(f"mosquitto could not be fetched ({error}); {INSTALL_IT}") from error
    return run.stdout
