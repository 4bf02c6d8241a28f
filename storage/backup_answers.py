"""PURE. What pgBackRest answers: its backups, what its verification found, and what its errors mean.

Trap of 2.45: `verify` ends with 0 whatever it found; only its text says so.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MAX_TEXT = 1_000
"""Characters of an error that are passed on."""

NOT_THE_OWNER = "run it as the owner of the configuration: sudo -u postgres factoryd …"
HINTS: Mapping[int, str] = {
    31: "is another version of pgBackRest installed than Debian's 2.45 or newer?",
    28: "this stanza is of another cluster: set backup.stanza to a new name, or give the old repository another place",
    40: "make the directory empty, or take another one (or --delta to overwrite what differs)",
    41: NOT_THE_OWNER,
    47: NOT_THE_OWNER,
    50: "another backup is running; wait for it",
    55: "is it set up? factoryd backup init --yes; if it is, the repository is damaged or another one is mounted",
    56: "is PostgreSQL running, and does pg_hba.conf let this user in over the socket?",
    75: "factoryd backup status shows which backups there are",
    82: "WAL does not reach the repository: look for archive-push in PostgreSQL's log; is archive_mode on?",
}
"""What to do next, by pgBackRest's error codes."""


class BackupError(RuntimeError):
    """A backup, a restore or a check of them failed; the text says of what, why and what to do next."""


@dataclass(frozen=True, slots=True)
class StoredBackup:
    """One backup in one repository."""

    repository: int
    label: str
    kind: str
    """full, diff or incr."""
    started_at: datetime
    stopped_at: datetime
    """A restore to this moment or later can begin with it."""
    size_bytes: int
    """Of the cluster."""
    stored_bytes: int
    """That this backup added to the repository."""
    damaged: bool


def parse_info(text: str) -> list[StoredBackup]:
    """Returns the backups of `pgbackrest info --output=json`, the oldest first.

    Raises:
        BackupError: the text is something else.
    """
    try:
        found = [_stored(entry) for stanza in json.loads(text) for entry in stanza["backup"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"pgbackrest info says what we cannot read: {text[:200]!r}") from error
    return sorted(found, key=lambda backup: (backup.stopped_at, backup.repository))


def verify_faults(text: str) -> list[str]:
    """Returns the lines of `pgbackrest verify --output=text` that tell of a fault; it prints nothing where all is well."""
    lines = [line.strip() for line in text.splitlines()]
    counted = re.compile(r"(?:missing|checksum invalid|size invalid|other): [1-9]")
    bad = [line for line in lines if re.search(r"status: (?!ok|valid)", line) or counted.search(line)]
    return [line[:MAX_TEXT] for line in bad]


def explain(command: str, code: int, text: str) -> str:
    """Returns pgBackRest's error in one line, with what to do next."""
    found = re.findall(r"ERROR: \[\d+\]: (.*(?:\n[ \t]+.*)*)", text)
    reason = " ".join((found[0] if found else text).split())[:MAX_TEXT]
    hint = HINTS.get(code)
    return f"pgbackrest {command}: {reason or f'exit code {code}'}{f' ({hint})' if hint else ''}"


def _stored(entry: Mapping[str, Any]) -> StoredBackup:
    started, stopped = (datetime.fromtimestamp(entry["timestamp"][name], UTC) for name in ("start", "stop"))
    size, stored = entry["info"]["size"], entry["info"]["repository"]["delta"]
    number = entry["database"]["repo-key"]
    return StoredBackup(number, entry["label"], entry["type"], started, stopped, size, stored, bool(entry["error"]))
