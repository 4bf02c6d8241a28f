"""What comes on the control session: operators' commands are stored first, then presence takes the rest and acknowledges.

In order of arrival: what comes behind a command waits until that is stored.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable

import msgspec
import structlog

from alerting.answers import Answers
from alerting.metrics import AlertMetrics
from alerting.operators import BadCommand, read_command
from mqtt import topics
from mqtt.connection import Deliveries
from mqtt.publisher import Outbound
from mqtt.session import Publish
from storage.operator_commands import CommandTable, NewCommand

log = structlog.get_logger(__name__)

RETRY_MAX_S = 2.0
MAX_TEXT = 500


class Control:
    """Parts the messages of the control session."""

    def __init__(
        self,
        root: str,
        commands: CommandTable,
        answers: Answers,
        metrics: AlertMetrics,
        pass_on: Callable[[Deliveries], None],
    ) -> None:
        self._root = root
        self._commands = commands
        self._answers = answers
        self._metrics = metrics
        self._pass_on = pass_on
        self._waiting: deque[tuple[list[NewCommand], Deliveries]] = deque()
        self._arrived = asyncio.Event()

    def deliver(self, deliveries: Deliveries) -> None:
        """Takes messages as they come; never blocks. Bounded by the session's receive maximum."""
        commands = [
            command
            for publish in deliveries.publishes
            if (login := topics.operator_of(self._root, publish.topic)) is not None
            and (command := self._command(login, publish, deliveries)) is not None
        ]
        if not commands and not self._waiting:
            self._pass_on(deliveries)
            return
        self._waiting.append((commands, deliveries))
        self._arrived.set()

    async def run(self) -> None:
        """Stores commands until cancelled; they are carried out when the database tells of them."""
        attempt = 0
        while True:
            await self._arrived.wait()
            commands, deliveries = self._waiting[0]
            try:
                await self._commands.add(commands)
            except ConnectionError as error:
                attempt += 1
                if attempt == 1:
                    log.warning("commands_not_stored", error=str(error), commands=len(commands))
                await asyncio.sleep(random.uniform(0.05, min(RETRY_MAX_S, 0.1 * 2 ** min(attempt, 5))))  # noqa: S311
                continue
            attempt = 0
            self._waiting.popleft()
            if not self._waiting:
                self._arrived.clear()
            self._pass_on(deliveries)

    def _command(self, login: str, publish: Publish, deliveries: Deliveries) -> NewCommand | None:
        if publish.retain:  # a retained command would be carried out again at each start
            self._metrics.commands.labels("malformed").inc()
            return None
        response = self._response_topic(login, publish)
        try:
            body, until = read_command(publish.payload, deliveries.received_at)
        except BadCommand as error:
            self._metrics.commands.labels("malformed").inc()
            log.info("command_malformed", login=login[:64], error=str(error)[:MAX_TEXT])
            self._answers.say(Outbound(response, _malformed(error), False, publish.correlation_data))
            return None
        return NewCommand(
            login[:64],
            body.action[:64],
            body.alert_id,
            body.note,
            until,
            body.sticky,
            "mqtt",
            str(body.request_id)[:MAX_TEXT] if body.request_id is not None else None,
            response,
            publish.correlation_data,
        )

    def _response_topic(self, login: str, publish: Publish) -> str:
        """The one asked for, if it is the person's own: nobody may point us at another topic."""
        own, asked = topics.operator_responses(self._root, login), publish.response_topic
        if asked is not None and (asked == own or asked.startswith(f"{own}/")) and not set("+#\0") & set(asked):
            return asked
        return own


def _malformed(error: BadCommand) -> bytes:
    return msgspec.json.encode({"outcome": "refused", "detail": str(error)[:MAX_TEXT]})
