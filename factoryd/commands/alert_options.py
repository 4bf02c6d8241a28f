"""The options by which people choose alerts, the same wherever they are given."""

from typing import Annotated

import typer

from alerting.alert import Severity
from storage.refusals import InvalidInput

Device = Annotated[str | None, typer.Option("--device", metavar="ID", help="Only of this device.")]
SeverityName = Annotated[str | None, typer.Option("--severity", metavar="info|warning|critical", help="Only of this severity.")]


def check_severity(name: str | None) -> None:
    """Raises InvalidInput unless it is a severity, or not said."""
    if name is not None and name not in set(Severity):
        raise InvalidInput(f"--severity {name[:40]}: must be {', '.join(Severity)}")
