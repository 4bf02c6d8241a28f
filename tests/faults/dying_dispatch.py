"""`factoryd run` that kills itself (SIGKILL) at one step between deciding to send an update and knowing how it ended.

python -m tests.faults.dying_dispatch STEP
"""

import sys
from typing import Any

from factoryd.__main__ import main
from mqtt.connection import Connection
from mqtt.publisher import Publisher
from mqtt.sender import Sender
from ota.draft import Draft
from ota.tracker import Tracker
from storage import ota_tables
from storage.ota_outbox import CommandOutbox
from storage.ota_tables import OtaTables
from tests.faults.dying import after, after_now, before

STEPS = (
    "chosen",
    "before commit",
    "after commit",
    "before publish",
    "after publish",
    "before PUBACK",
    "after PUBACK",
    "flag cleared",
    "report received",
    "report before commit",
    "report after commit",
    "report before its PUBACK",
)


def _to_device(_: Publisher, messages: Any) -> bool:
    return any(message.topic.endswith("/ota/command") for message in messages)


def _command(_: Sender, topic: str, *__: object) -> bool:
    return topic.endswith("/ota/command")


def _report(_: Tracker, deliveries: Any) -> bool:
    return any(publish.topic.endswith("/ota/progress") for publish in deliveries.publishes)


def arm(step: str) -> None:
    """Wraps the method that is this step."""
    happened = False

    def note(concerns: bool) -> bool:
        nonlocal happened
        happened |= concerns
        return False

    match step:
        case "chosen":
            before(OtaTables, "dispatch")
        case "before commit":
            after(ota_tables, "write_draft", lambda _, __, draft, *___: _sends(draft))
        case "after commit":
            after(OtaTables, "dispatch", lambda draft, *_: _sends(draft))
        case "before publish":
            before(Publisher, "publish_in_order", _to_device)
        case "after publish":
            after_now(Sender, "send", _command)
        case "before PUBACK":
            after_now(Sender, "send", lambda *args: note(_command(*args)))
            before(Sender, "data_received", lambda *_: happened)
        case "after PUBACK":
            after(Publisher, "publish_in_order", lambda _, *args: _to_device(*args))
        case "flag cleared":
            after(CommandOutbox, "sent")
        case "report received":
            before(Tracker, "deliver", _report)
        case "report before commit":
            after(ota_tables, "write_draft", lambda _, __, draft, *___: _progresses(draft))
        case "report after commit":
            after(OtaTables, "track", lambda draft, *_: _progresses(draft))
        case "report before its PUBACK":
            after(OtaTables, "track", lambda draft, *_: note(_progresses(draft)))
            before(Connection, "acknowledge", lambda *_: happened)
        case _:
            raise ValueError(f"no step {step!r}: {', '.join(STEPS)}")


def _sends(draft: Draft) -> bool:
    return any(deployment.publish_pending is not None for deployment in draft.changed.values())


def _progresses(draft: Draft) -> bool:
    return any(deployment.last_report_at is not None for deployment in draft.changed.values())


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.argv[1:] = ["run"]
    main()
