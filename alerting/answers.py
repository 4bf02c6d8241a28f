"""Answers to operators, on the response topic. A courtesy, lost with the process: what was done is in operator_commands."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog

from alerting.draft import Outcome
from mqtt.publisher import Outbound

log = structlog.get_logger(__name__)

MAX_WAITING = 1_000


class Broker(Protocol):
    """The publisher, as far as it is needed here."""

    ready: asyncio.Event

    async def publish_in_order(self, messages: Sequence[Outbound]) -> list[bool]:
        """Returns when all are acknowledged."""
        ...


class Answers:
    """Answers on their way."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
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
            await self._broker.ready.wait()
            try:
                await self._broker.publish_in_order([answer])
            except ConnectionError as error:
                log.info("answer_lost", topic=answer.topic, error=str(error))
