"""`factoryd run` that kills itself (SIGKILL) at one step between receiving a crossing and marking its alert as published.

    python tests/faults/dying_daemon.py STEP

The product knows nothing of it: methods are wrapped from outside.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from alerting.draft import Draft
from factoryd.__main__ import main
from ingest.pipeline import Pipeline
from mqtt.connection import Connection
from mqtt.publisher import Publisher
from mqtt.sender import Sender
from storage import alerts, readings
from storage.alert_outbox import OutboxTable
from storage.alerts import AlertLedger

STEPS = (
    "received",
    "evaluating",
    "evaluated",
    "written",
    "committed",
    "adopted",
    "acknowledging",
    "publishing",
    "state sent",
    "event sent",
    "confirmed",
    "marking",
    "marked",
)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, concerns: Callable[..., bool] = lambda *_: True) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **named: Any) -> Any:
        if concerns(*args):
            _die()
        return original(*args, **named)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, concerns: Callable[..., bool] = lambda *_: True) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **named: Any) -> Any:
        result = await original(*args, **named)
        if concerns(result, *args):
            _die()
        return result

    setattr(owner, name, wrapped)


def _after_now(owner: Any, name: str, concerns: Callable[..., bool]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **named: Any) -> Any:
        result = original(*args, **named)
        if concerns(*args):
            _die()
        return result

    setattr(owner, name, wrapped)


def _telemetry(_: Pipeline, deliveries: Any) -> bool:
    return any(publish.topic.endswith("/telemetry") for publish in deliveries.publishes)


def _crossing(draft: Draft, *_: Any) -> bool:
    return any(entry.alert.kind == "threshold" for entry in draft.entries)


def arm(step: str) -> None:
    """Wraps the method that is this step."""
    match step:
        case "received":
            _before(Pipeline, "deliver", _telemetry)
        case "evaluating":
            _before(AlertLedger, "evaluate", lambda _, held: bool(held))
        case "evaluated":
            _after(AlertLedger, "evaluate", lambda result, *_: _crossing(result[0]))
        case "written":
            for module in (readings, alerts):
                _after(module, "write_draft", lambda _, __, draft, *___: _crossing(draft))
        case "committed":
            _before(AlertLedger, "settle", lambda _, draft, __: _crossing(draft))
        case "adopted":
            _after_now(AlertLedger, "settle", lambda _, draft, __: _crossing(draft))
        case "acknowledging":
            crossings: list[Draft] = []

            def note(_: AlertLedger, draft: Draft, __: Any) -> bool:
                crossings.extend([draft] if _crossing(draft) else [])
                return False

            _after_now(AlertLedger, "settle", note)
            _before(Connection, "acknowledge", lambda *_: bool(crossings))
        case "publishing":
            _before(Publisher, "publish_in_order", lambda _, messages: "/alerts/" in messages[0].topic)
        case "state sent":
            _after_now(Sender, "send", lambda _, topic, *__: "/alerts/" in topic)
        case "event sent":
            _after_now(Sender, "send", lambda _, topic, *__: "/alert-events/" in topic)
        case "confirmed":
            _after(Publisher, "publish_in_order", lambda _, __, messages: "/alerts/" in messages[0].topic)
        case "marking":
            _before(OutboxTable, "mark")
        case "marked":
            _after(OutboxTable, "mark")
        case _:
            raise ValueError(f"no step {step!r}: {', '.join(STEPS)}")


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.argv[1:] = ["run"]
    main()
