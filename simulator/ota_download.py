"""A download over HTTP that goes on where it stopped; the words for what can go wrong are the guide's error codes."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

CHUNK_BYTES = 64 * 1024
TIMEOUT_S = 30.0
EXPIRED = frozenset({401, 403, 410})
"""How file servers answer a URL that is no longer signed in time."""
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Failed(Exception):
    """The update cannot go on; `code` is the word to report."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def download(url: str, path: Path, size: int | None, most: int, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[int]:
    """Appends to the file what it lacks, and yields the bytes that are there after each chunk.

    Args:
        url: http or https.
        path: may hold the first part already.
        size: of the whole file, or None: not known.
        most: bytes that there is room for.
        chunk_bytes: read at a time.

    Raises:
        Failed: it cannot be had; what has come is kept.
    """
    there = _kept(path, size)
    if there == size:
        return
    response = await asyncio.to_thread(_request, url, there)
    with response, path.open("ab") as file:
        if response.status != 206:
            file.truncate(0)
            there = 0
        while chunk := await asyncio.to_thread(_read, response, chunk_bytes):
            there += len(chunk)
            if there > (most if size is None else size):
                raise Failed("size_mismatch", f"more than {most if size is None else size} bytes come")
            file.write(chunk)
            file.flush()
            yield there
    if size is not None and there < size:
        raise Failed("network", f"ended after {there} of {size} bytes")


def _kept(path: Path, size: int | None) -> int:
    """Without a size nobody can tell whether it is whole: it is fetched anew."""
    there = path.stat().st_size if path.exists() else 0
    if size is None or there > size:
        path.unlink(missing_ok=True)
        return 0
    return there


def _request(url: str, offset: int) -> Any:
    if not url.startswith(("http://", "https://")):
        raise Failed("http_4xx", "only http and https are fetched")
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        return _open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)  # noqa: S310 - checked above
    except urllib.error.HTTPError as error:
        error.close()
        raise Failed(_code_of(error.code), f"the file server answers {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise Failed("network", f"the file server cannot be reached: {error}") from error


def _read(response: Any, chunk_bytes: int) -> bytes:
    try:
        chunk: bytes = response.read(chunk_bytes)
    except (OSError, HTTPException) as error:
        raise Failed("network", f"the download broke off: {error}") from error
    return chunk


def _code_of(status: int) -> str:
    if status in EXPIRED:
        return "url_expired"
    if status == 429:
        return "http_429"
    return "http_5xx" if status >= 500 else "http_4xx"
