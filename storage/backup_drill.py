"""The recovery drill: the latest backup is restored beside the running cluster, started, looked through, and thrown away."""

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from config.storage_settings import BackupSettings
from storage.backup import PgBackRest, restore_arguments
from storage.backup_answers import BackupError
from storage.backup_checks import Checked, check_copy
from storage.backup_copy import damaged_blocks, find_binaries, running_copy
from storage.migrate import head_revision

ROOM = 1.1
"""Of the cluster's size: what the copy needs, with the WAL that it replays."""


@dataclass(slots=True)
class DrillReport:
    """What a drill did and found."""

    backup: str
    recovered_to: datetime | None
    restore_s: float
    """Files from the repository."""
    rto_s: float
    """From the beginning until the copy took queries."""
    verify_s: float = 0.0
    checksums: str = "off"
    checked: Checked = field(default_factory=Checked)

    def detail(self) -> dict[str, Any]:
        """Returns it as kept in job_runs."""
        found = asdict(self)
        return {**found, **found.pop("checked")}


def drill(
    settings: BackupSettings,
    database: str,
    *,
    directory: Path | None = None,
    target: datetime | None = None,
    repository: int | None = None,
    binaries: Path | None = None,
) -> DrillReport:
    """Restores, starts, checks, and removes everything again, whatever comes of it. The running cluster is not touched.

    Args:
        settings: of backups.
        database: ours.
        directory: where there is room for the whole cluster; None: the system's temporary.
        target: moment to recover to; None: all that was archived.
        repository: restore from this one; None: the first that has what is needed.
        binaries: PostgreSQL's programs; None: found.

    Raises:
        BackupError: it could not be restored, or did not recover. What is wrong in the copy is in the report.
    """
    tool = PgBackRest(settings)
    identity, superuser = tool.identity, tool.cluster().superuser
    with tempfile.TemporaryDirectory(prefix="factoryd-drill-", dir=directory) as work:
        identity.own(Path(work))
        data = Path(work) / "data"
        _refuse_if_full(tool, Path(work))
        began = time.monotonic()
        label = tool.restore(restore_arguments(settings, data, target=target, repository=repository))
        restored = time.monotonic()
        programs = find_binaries(data, binaries)
        with running_copy(programs, data, superuser, identity) as copy:
            started = time.monotonic()
            report = DrillReport(label, copy.recovered_to, restored - began, started - began)
            report.checked = check_copy(copy.conninfo, database, head_revision())
        if report.checked.has_checksums:
            bad = damaged_blocks(programs, data, identity)
            report.checksums = "damaged" if bad else "good"
            report.checked.findings += bad[:20]
        report.verify_s = time.monotonic() - started
    return report


def _refuse_if_full(tool: PgBackRest, directory: Path) -> None:
    backups = tool.backups()
    if not backups:
        raise BackupError("there is no backup yet: factoryd backup run full")
    needed, free = round(backups[-1].size_bytes * ROOM), shutil.disk_usage(directory).free
    if free < needed:
        raise BackupError(
            f"{directory.parent} has {free >> 20} MiB of room, the cluster needs {needed >> 20}: name another --directory"
        )
