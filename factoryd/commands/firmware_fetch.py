"""Reads a firmware file back from wherever it lies, for people's commands; the daemon itself never does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from config.ota_settings import OtaSettings
from factoryd.commands.firmware_progress import shown_progress
from ota.catalogue import NoAddress
from ota.firmware import Version
from ota.urls import redacted, why_refused
from storage.artifacts import Artifacts
from storage.objects import Content, StoreUnavailable, digest
from storage.refusals import Conflict

TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20


def refuse_address(settings: OtaSettings, version: Version, now: datetime) -> None:
    """Raises Conflict if the daemon would send no device to the version's file; the text says why."""
    try:
        url = Artifacts(settings).device_url(version, now).url
    except NoAddress as error:
        raise Conflict(str(error)) from error
    problem = why_refused(url, settings.allowed_hosts, signed=bool(version.signatures) and not settings.allow_unsigned)
    if problem is not None:
        raise Conflict(f"{version.version}: no device would be sent there: {problem}")


def read_back(settings: OtaSettings, version: Version) -> Content:
    """Returns what a version's file holds now, with a bar where a person looks.

    Raises:
        NotFound: there is no such file.
        Conflict: it must not, or cannot, be fetched from there.
        ConnectionError: try again.
    """
    url = version.firmware_url
    with shown_progress(f"reading {version.version} back", version.size_bytes) as progress:
        if urlsplit(url).scheme not in {"http", "https"}:
            return Artifacts(settings).read_back(url, progress)
        signed = bool(version.signatures) and not settings.allow_unsigned
        return fetch(url, settings.allowed_hosts, progress, signed=signed, most_bytes=version.size_bytes)


def fetch(
    url: str, allowed_hosts: tuple[str, ...], progress: Callable[[int], None], *, signed: bool, most_bytes: int | None
) -> Content:
    """Returns what a URL gives; redirects are refused, because they would lead past the list of hosts.

    Args:
        url: http or https.
        allowed_hosts: as ota.allowed_hosts.
        progress: told of bytes as they come.
        signed: as in ota.urls.why_refused.
        most_bytes: no more than one piece beyond it is read: the answer is wrong then, and may have no end.
    """
    problem = why_refused(url, allowed_hosts, signed)
    if problem is not None:
        raise Conflict(problem)
    try:
        with _opened(url) as response:
            return digest(_pieces(response, most_bytes), progress)
    except HTTPError as error:
        status = error.code
        error.close()
        what = "redirects; state the URL that it leads to" if 300 <= status < 400 else f"answers {status}"
        raise (StoreUnavailable if status >= 500 else Conflict)(f"{redacted(url)} {what}") from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise StoreUnavailable(f"{redacted(url)} cannot be fetched: {getattr(error, 'reason', error)}") from None


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Makes the answer an error."""


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "factoryd"})  # noqa: S310 - why_refused looked
    with build_opener(_NoRedirects()).open(request, timeout=TIMEOUT_S) as response:
        yield response


def _pieces(response: Any, most_bytes: int | None) -> Iterator[bytes]:
    read = 0
    while piece := response.read(CHUNK_BYTES):
        yield piece
        read += len(piece)
        if most_bytes is not None and read > most_bytes:
            return
