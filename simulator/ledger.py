"""The publisher's ledger: every reading the broker acknowledged. The judge in the fault tests: what is here must be stored.

A ledger is any callable that takes an Acknowledged: `list.append` will do; FileLedger survives the end of the process.
"""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Acknowledged(NamedTuple):
    """One reading whose PUBACK arrived with a success code. Readings spoiled by a fault are not entered."""

    device: str
    boot_id: str
    seq: int
    recorded_at: datetime


Ledger = Callable[[Acknowledged], None]


class FileLedger:
    """Appends one JSON line per acknowledged reading; each is handed to the operating system before the next."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __call__(self, entry: Acknowledged) -> None:
        """Appends the entry."""
        self._file.write(json.dumps([*entry[:3], entry.recorded_at.isoformat()]) + "\n")
        self._file.flush()


def read_ledger(path: Path) -> Iterator[Acknowledged]:
    """Yields the entries of a file; a last line cut off by a crash is left out.

    Raises:
        ValueError: a line that is not the last is damaged.
    """
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            device, boot_id, seq, recorded_at = json.loads(line)
            yield Acknowledged(device, boot_id, seq, datetime.fromisoformat(recorded_at))
