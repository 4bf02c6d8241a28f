"""PURE. Births and deaths: what a device says about itself on its status topic (docs/mqtt.md).

JSON `{"status":"online","session":"…","version":"1.4.2"}`, or the plain word in any case, as much firmware has it.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

MAX_BYTES = 4096
MAX_TEXT = 100
MAX_REASON = 500
NO_REASON = "the device gave no reason"


class Status(StrEnum):
    """The schema's device_status."""

    ONLINE = "online"
    OFFLINE = "offline"
    ERROR = "error"


class Report(NamedTuple):
    """One status message. `session` pairs a death with its birth; `version` is the firmware's."""

    status: Status
    session: str | None = None
    version: str | None = None
    reason: str | None = None


class BadReport(ValueError):
    """A status message that cannot be read; the text says why."""


class _Wire(msgspec.Struct):
    status: str
    session: str | int | None = None
    version: str | int | float | None = None
    reason: str | int | None = None


_decode = msgspec.json.Decoder(_Wire | str).decode


def read_report(payload: bytes) -> Report | None:
    """Returns what a status message says, or None for an empty one: somebody cleared the retained message.

    Raises:
        BadReport: neither the JSON object nor one of the three words.
    """
    if not payload:
        return None
    if len(payload) > MAX_BYTES:
        raise BadReport(f"{len(payload)} bytes; a status has at most {MAX_BYTES}")
    wire = _read(payload.strip())
    if isinstance(wire, str):
        return Report(_status(wire))
    return Report(_status(wire.status), _text(wire.session), _text(wire.version), _text(wire.reason, MAX_REASON))


def _read(payload: bytes) -> _Wire | str:
    try:
        return _decode(payload) if payload[:1] in {b"{", b'"'} else payload.decode()
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadReport(f"not a status: {error}") from error


def _status(word: str) -> Status:
    try:
        return Status(word.strip().lower())
    except ValueError as error:
        raise BadReport(f"{word[:40]!r} is not online, offline or error") from error


def _text(value: str | float | None, limit: int = MAX_TEXT) -> str | None:
    """NUL is replaced: PostgreSQL's text refuses it."""
    text = "" if value is None else str(value).replace("\0", "\ufffd").strip()[:limit]
    return text or None
