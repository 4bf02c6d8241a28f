"""Answers to operators: published once, on the response topic. A courtesy: what was done is in operator_commands."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from alerting.draft import Outcome
from mqtt.publisher import Outbound

log = structlog.get_logger(__name__)

MAX_WAITING = 1_000


class Answers:
    """Answers on their way."""

    def __init__(self, publish: Callable[[Sequence[Outbound]], Awaitable[object]]) -> None:
        self._publish = publish
        self._waiting: asyncio.Queue[Outbound] = asyncio.Queue(MAX_WAITING)

    def put(self, outcomes: Iterable[Outcome]) -> None:
        """Takes what became of commands; never blocks."""
        for outcome in outcomes:
            if outcome.response_topic is not None:
                self.say(Outbound(outcome.response_topic, outcome.response, False, outcome.correlation_data))

    def say(self, answer: Outbound) -> None:
        """Takes one answer; what does not fit is dropped."""
        if not self._waiting.full():
            self._waiting.put_nowait(answer)

    async def run(self) -> None:
        """Publishes until cancelled."""
        while True:
            answer = await self._waiting.get()
            try:
                await self._publish([answer])
            except ConnectionError as error:
                log.debug("answer_not_published", topic=answer.topic, error=str(error))
