"""The HTTP side of `alerting.alertmanager`: posts alerts to the API v2 of Alertmanager. The one door to httpx."""

import asyncio
import logging
import ssl
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

import httpx
import msgspec

from alerting.alertmanager_body import Entry

logging.getLogger("httpx").setLevel(logging.WARNING)  # it would write a line per request

PATH = "/api/v2/alerts"
TIMEOUT_S = 10.0
"""Of one whole request."""
BODY_FAULTS = {400, 413, 422}
"""The body is at fault, and will be the next time. Any other failure concerns the address, the account or the server."""
MAX_ANSWER = 300


class AlertmanagerUnavailable(ConnectionError):
    """No answer, or one that says "not now" or "not you": send the same again later."""


class _BodyRefused(Exception):
    """It will not take this body, however often it is sent."""


class Refused(NamedTuple):
    """An alert that Alertmanager will not take, and what it says of it."""

    entry: Entry
    answer: str


class AlertmanagerApi:
    """One Alertmanager; `async with` closes its connections."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Connects to nothing yet.

        Args:
            url: http(s)://[user:password@]host:9093[/prefix].
            transport: for tests; default: the network.
        """
        parts = urlsplit(url)
        self.endpoint = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}{PATH}"
        """Without user and password: for logs."""
        # The system's certificates, as for the broker; and no proxy from the environment: it is a neighbour.
        self._client = httpx.AsyncClient(
            auth=(unquote(parts.username), unquote(parts.password or "")) if parts.username else None,
            headers={"Content-Type": "application/json"},
            timeout=TIMEOUT_S,
            verify=ssl.create_default_context(),
            trust_env=False,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def post(self, entries: list[Entry]) -> list[Refused]:
        """Posts alerts; of a body that is refused each half for itself, until it is clear which alert it is.

        Returns:
            Those that it will not take; it has all others.

        Raises:
            AlertmanagerUnavailable: which of them it has is unknown: post all of them again.
        """
        try:
            await self._request(entries)
        except _BodyRefused as error:
            if len(entries) == 1:
                return [Refused(entries[0], str(error))]
            middle = len(entries) // 2
            return [*await self.post(entries[:middle]), *await self.post(entries[middle:])]
        return []

    async def _request(self, entries: list[Entry]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._client.post(self.endpoint, content=msgspec.json.encode(entries))
        except TimeoutError as error:
            raise AlertmanagerUnavailable(f"{self.endpoint}: no answer within {TIMEOUT_S:g} s") from error
        except httpx.HTTPError as error:
            raise AlertmanagerUnavailable(f"{self.endpoint}: {str(error) or type(error).__name__}") from error
        answer = f"{self.endpoint}: HTTP {response.status_code}: {response.text[:MAX_ANSWER].strip()}"
        if response.status_code in BODY_FAULTS:
            raise _BodyRefused(answer)
        if not response.is_success:
            raise AlertmanagerUnavailable(f"{answer}; check alerting.alertmanager_url")
