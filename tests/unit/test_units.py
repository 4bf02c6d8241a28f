"""The timers of deploy/ start services that exist, when docs/backup.md says; systemd finds nothing wrong with them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from factoryd.commands.backup import BackupKind

DEPLOY = Path(__file__).parents[2] / "deploy"
TIMERS = sorted(DEPLOY.glob("*.timer"))
SERVICES = sorted(DEPLOY.glob("factoryd-*.service"))
CALENDAR = {
    "factoryd-backup-full.timer": "Sun 02:00",
    "factoryd-backup-incr.timer": "Mon..Sat 02:00",
    "factoryd-drill.timer": "Wed *-*-1..7 10:00",
    "factoryd-maintenance.timer": "*-*-* 02:15 UTC",
}
NOT_INSTALLED = re.compile(r"Command /opt/factoryd/bin/factoryd is not executable: No such file or directory")


def value(unit: Path, name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.+)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def test_each_timer_has_its_time_and_its_service() -> None:
    assert {timer.name: value(timer, "OnCalendar") for timer in TIMERS} == CALENDAR
    for timer in TIMERS:
        service, at, instance = value(timer, "Unit").removesuffix(".service").partition("@")
        assert (DEPLOY / f"{service}{at}.service").exists()
        assert not at or instance in set(BackupKind)
        assert "Persistent=true" in timer.read_text(encoding="utf-8")


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_a_service_reads_the_settings_as_a_credential_and_may_do_little(service: Path) -> None:
    lines = set(service.read_text(encoding="utf-8").splitlines())
    assert "LoadCredential=factoryd.toml:/etc/factoryd/factoryd.toml" in lines
    assert value(service, "ExecStart").startswith("/opt/factoryd/bin/factoryd --config %d/factoryd.toml ")
    assert {"CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "Type=oneshot"} <= lines
    assert "TimeoutStartSec=infinity" in lines, "a backup takes as long as it takes"


@pytest.mark.parametrize("unit", [*TIMERS, *SERVICES], ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    """Where systemd is installed."""
    if analyze := shutil.which("systemd-analyze"):
        result = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
        assert [line for line in result.stderr.splitlines() if not NOT_INSTALLED.search(line)] == []
        if unit.suffix == ".service":
            command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
            assert subprocess.run(command, capture_output=True, check=False).returncode == 0
