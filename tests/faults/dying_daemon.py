"""`factoryd run` that kills itself (SIGKILL) at one step between receiving a crossing and marking its alert as published.

python -m tests.faults.dying_daemon STEP
"""

import sys
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
from tests.faults.dying import after, after_now, before

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


def _telemetry(_: Pipeline, deliveries: Any) -> bool:
    return any(publish.topic.endswith("/telemetry") for publish in deliveries.publishes)


def _crossing(draft: Draft, *_: Any) -> bool:
    return any(entry.alert.kind == "threshold" for entry in draft.entries)


def arm(step: str) -> None:
    """Wraps the method that is this step."""
    match step:
        case "received":
            before(Pipeline, "deliver", _telemetry)
        case "evaluating":
            before(AlertLedger, "evaluate", lambda _, held: bool(held))
        case "evaluated":
            after(AlertLedger, "evaluate", lambda result, *_: _crossing(result[0]))
        case "written":
            for module in (readings, alerts):
                after(module, "write_draft", lambda _, __, draft, *___: _crossing(draft))
        case "committed":
            before(AlertLedger, "settle", lambda _, draft, __: _crossing(draft))
        case "adopted":
            after_now(AlertLedger, "settle", lambda _, draft, __: _crossing(draft))
        case "acknowledging":
            crossings: list[Draft] = []

            def note(_: AlertLedger, draft: Draft, __: Any) -> bool:
                crossings.extend([draft] if _crossing(draft) else [])
                return False

            after_now(AlertLedger, "settle", note)
            before(Connection, "acknowledge", lambda *_: bool(crossings))
        case "publishing":
            before(Publisher, "publish_in_order", lambda _, messages: "/alerts/" in messages[0].topic)
        case "state sent":
            after_now(Sender, "send", lambda _, topic, *__: "/alerts/" in topic)
        case "event sent":
            after_now(Sender, "send", lambda _, topic, *__: "/alert-events/" in topic)
        case "confirmed":
            after(Publisher, "publish_in_order", lambda _, __, messages: "/alerts/" in messages[0].topic)
        case "marking":
            before(OutboxTable, "mark")
        case "marked":
            after(OutboxTable, "mark")
        case _:
            raise ValueError(f"no step {step!r}: {', '.join(STEPS)}")


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.argv[1:] = ["run"]
    main()
