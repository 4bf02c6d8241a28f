"""A run of maintenance that is written down."""

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from config.settings import Settings
from storage.archive_export import Rows
from storage.job_runs import job_run
from storage.maintenance_run import MaintenanceFailed, MaintenanceReport, run_maintenance


def run_recorded(settings: Settings, progress: Rows = lambda _: None) -> MaintenanceReport:
    """Runs maintenance, and writes down how it went; parts that failed are in the report.

    Raises:
        As `run_maintenance`.
    """
    assert settings.database.owner_url is not None, "checked by the caller"
    url, now = settings.database.owner_url.get_secret_value(), datetime.now(UTC)
    report = MaintenanceReport()
    with suppress(MaintenanceFailed), job_run(settings.database, "maintenance") as detail:
        report = run_maintenance(url, settings.retention, settings.archive, now, progress)
        detail.update({**asdict(report), "days": len(report.days), "rows": report.rows})
        if report.errors:
            raise MaintenanceFailed("; ".join(report.errors))
    return report
