"""What the decoding tests share: one moment, one device, and the outcome of a message in plain words."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from config.settings import IngestSettings
from ingest.clocks import TimeWindow
from ingest.decoding import Decoded, decode
from ingest.layouts import NATIVE, Layout
from ingest.reading import METRICS, Reason, Sample

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
RETENTION, SKEW = timedelta(days=90), timedelta(seconds=300)
LIMITS = IngestSettings()
Outcome = tuple[list[dict[str, Any]], list[Reason]]


def decoded(
    payload: bytes | str,
    content_type: str | None = None,
    *,
    device: str = "press-1",
    limits: IngestSettings = LIMITS,
    layout: Layout = NATIVE,
    zone: tzinfo | None = None,
) -> Decoded:
    """Decodes a message that is received NOW."""
    raw = payload.encode() if isinstance(payload, str) else payload
    window = TimeWindow.around(NOW, RETENTION, SKEW)
    return decode(raw, content_type, device=device, window=window, received_at=NOW, limits=limits, layout=layout, zone=zone)


def stated(sample: Sample) -> dict[str, Any]:
    """Returns what a sample says: everything in it that is not absent, extra metrics beside the columns."""
    names = (*METRICS, "seq", "boot_id", "recorded_at", "before", "device")
    found = {name: getattr(sample, name) for name in names if getattr(sample, name) is not None}
    return {**found, **(sample.extra or {})}


def outcome(decoded: Decoded) -> Outcome:
    """Returns what each sample says, and the reasons of what was rejected."""
    return [stated(sample) for sample in decoded.samples], [rejected.reason for rejected in decoded.rejected]
