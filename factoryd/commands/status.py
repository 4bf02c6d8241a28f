"""`factoryd status`: how things stand, from the database and, where it answers, from the daemon itself."""

import http.client
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from config.settings import HttpSettings
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, print_json, shown
from storage.migrate import head_revision
from storage.refusals import InvalidInput
from storage.site_status import SiteStatus, load_site_status

HTTP_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 65_536
FEW_PARTITIONS = 2


def status(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Shows schema, daemon, devices, last reading, alerts, firmware, quarantine, gaps and partitions."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: status is no list; use table or json")
    settings, now = settings_of(ctx), datetime.now(UTC)
    site = load_site_status(settings.database, now)
    daemon = ask_daemon(settings.http)
    if output in JSON_FORMS:
        everything = {"at": now, **asdict(site), "schema_needed": head_revision(), "daemon": daemon}
        everything["allow_unsigned"] = settings.ota.allow_unsigned
        print_json(everything, output)
        return
    for name, text in describe(site, daemon, now, unsigned=settings.ota.allow_unsigned):
        typer.echo(f"{name:14}{text}")


def ask_daemon(settings: HttpSettings) -> dict[str, Any] | None:
    """Returns what /readyz of a daemon on this machine says; None if none answers there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - not a bind
    connection = http.client.HTTPConnection(host, settings.port, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = json.loads(connection.getresponse().read(MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None


def describe(
    site: SiteStatus, daemon: dict[str, Any] | None, now: datetime, *, unsigned: bool = False
) -> Iterator[tuple[str, str]]:
    """Yields the lines of the report: (what, how it stands)."""
    yield "schema", _schema(site)
    yield "daemon", _daemon(site, daemon, now)
    yield "devices", _counted(site.devices) or "none; factoryd device add registers one"
    yield "last reading", f"{_ago(site.last_reading, now)}, received {_ago(site.last_received, now)}"
    yield "alerts", f"{_counted(site.alerts)} open; factoryd alert list" if site.alerts else "none open"
    yield "firmware", _firmware(site, unsigned=unsigned)
    yield "quarantine", f"{_counted(site.quarantined) or 'nothing'} in 24 h{_waiting(site)}"
    yield "missing", _missing(site)
    yield "partitions", _partitions(site)


def _schema(site: SiteStatus) -> str:
    needed = head_revision()
    if site.revision is None or int(site.revision) < int(needed):
        return f"{site.revision or 'missing'}, this version needs {needed}: run factoryd migrate"
    return f"{site.revision}, this version needs {needed}"


def _daemon(site: SiteStatus, daemon: dict[str, Any] | None, now: datetime) -> str:
    leader = site.leader
    parts = [
        f"active since {_ago(leader.since, now)} from {leader.address or 'a local socket'}" if leader else "NONE is active"
    ]
    if daemon is None:
        parts.append("none answers at http.host and http.port")
    else:
        reasons = "; ".join(map(str, daemon.get("reasons") or []))
        parts.append(f"here: {daemon.get('status')}{f' ({reasons})' if reasons else ''}")
    return shown(", ".join(parts))


def _firmware(site: SiteStatus, *, unsigned: bool) -> str:
    parts = [_counted(site.updates) or "no update under way"]
    if site.rollouts:
        parts.append(f"rollouts: {_counted(site.rollouts)}")
    if unsigned:
        parts.append("UNSIGNED FIRMWARE IS SENT (ota.allow_unsigned)")
    return "; ".join(parts)


def _waiting(site: SiteStatus) -> str:
    return f", {site.replays_waiting} waiting for their replay" if site.replays_waiting else ""


def _missing(site: SiteStatus) -> str:
    if not site.missing_messages:
        return "no gaps in sequence numbers"
    return f"{site.missing_messages} messages never came: {_counted(site.missing_by_device)}"


def _partitions(site: SiteStatus) -> str:
    if site.partitions_ahead < 0:
        return "NONE FOR TODAY: run factoryd migrate"
    hint = ": few; is database.owner_url set for the daemon?" if site.partitions_ahead < FEW_PARTITIONS else ""
    return f"{site.partitions_ahead} days ahead{hint}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    seconds = (now - moment) // timedelta(seconds=1)
    if seconds < 0:
        return f"{shown(moment)} (ahead of this clock)"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
