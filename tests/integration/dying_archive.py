"""A process that runs maintenance or a restore, and kills itself (SIGKILL) before or after one of its steps.

Called with JSON: job, owner, url, spool, endpoint, step ("module:owner.name"), when ("before" or "after"), nth.
"""

import functools
import importlib
import json
import os
import signal
import sys
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import Any

from config.storage_settings import ArchiveSettings
from storage.archive_access import restore_files
from storage.maintenance_run import run_maintenance
from tests.integration.archiving import OLD_DAYS, RETENTION
from tests.integration.writing import NOW


def main(told: dict[str, Any]) -> None:
    die_at(told["step"], told["when"], told["nth"])
    archive = ArchiveSettings(url=told["url"], spool_directory=Path(told["spool"]), s3_endpoint_url=told["endpoint"])
    if told["job"] == "maintenance":
        run_maintenance(told["owner"], RETENTION, archive, NOW)
    else:
        days: list[date] = OLD_DAYS
        list(restore_files(told["owner"], archive, "sensor_readings", days[0], days[-1], None, None, lambda _: None))


def die_at(step: str, when: str, nth: int) -> None:
    module, _, path = step.partition(":")
    owner: Any = importlib.import_module(module)
    *way, name = path.split(".")
    owner = attrgetter(".".join(way))(owner) if way else owner
    original, calls = getattr(owner, name), [0]

    @functools.wraps(original)
    def wrapped(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if when == "before" and calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **named)
        if when == "after" and calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
