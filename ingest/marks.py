"""Marks: a line drawn through what the broker holds for us.

A broker hands a session its messages in order. So when a message that we publish to ourselves comes back on a session,
everything that was published before it has come, too: the backlog, the retained messages, the readings of a device that died.
Both sessions subscribe to the one topic of marks.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from mqtt.sender import PublishRefused

log = structlog.get_logger(__name__)

CONTROL = "control"
TELEMETRY = "telemetry"
RESEND_S = 30.0
"""A mark that is not back by then may have been lost with a session: another one is sent."""
RETRY_S = 2.0

Reached = Callable[[str, int, datetime], None]


class Marks:
    """Numbered marks of this process; those of an earlier one, still queued, do not count."""

    def __init__(self, topic: str, publish: Callable[[str, bytes], Awaitable[None]], on_reached: Reached) -> None:
        self.topic = topic
        self._publish = publish
        self._on_reached = on_reached
        self._process = secrets.token_hex(8)
        self._next = 1
        self._sent = 0
        self._wanted = asyncio.Event()
        self._reached = {CONTROL: 0, TELEMETRY: 0}

    @property
    def reached(self) -> int:
        """The last mark that is back on both sessions."""
        return min(self._reached.values())

    def want(self) -> int:
        """Orders a mark, and returns its number: it will be published after this moment."""
        self._wanted.set()
        return self._next

    def arrived(self, session: str, payload: bytes, received_at: datetime) -> None:
        """Takes what came on the topic of marks."""
        process, _, number = payload.decode(errors="replace").partition(" ")
        if process == self._process and number.isdecimal() and self._reached[session] < int(number) < self._next:
            self._reached[session] = int(number)
            self._on_reached(session, int(number), received_at)

    async def run(self) -> None:
        """Publishes the marks that are wanted, until cancelled."""
        while True:
            await self._due()
            number = self._next
            self._next += 1
            self._wanted.clear()
            try:
                await self._publish(self.topic, f"{self._process} {number}".encode())
                self._sent = number
            except (ConnectionError, PublishRefused) as error:
                log.debug("mark_not_published", error=str(error))
                self._wanted.set()
                await asyncio.sleep(random.uniform(RETRY_S / 10, RETRY_S))  # noqa: S311 - not a secret

    async def _due(self) -> None:
        while not self._wanted.is_set():
            outstanding = self.reached < self._sent
            try:
                async with asyncio.timeout(RESEND_S if outstanding else None):
                    await self._wanted.wait()
            except TimeoutError:
                if self.reached < self._sent:
                    log.warning("mark_missed", topic=self.topic, after_s=RESEND_S, next="check our access to it")
                    return
