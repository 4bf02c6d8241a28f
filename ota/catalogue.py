"""PURE. Which released versions may be sent, and why the others may not."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ota.firmware import Key, Version
from ota.signing import why_not_trusted
from ota.urls import why_refused


class Address(NamedTuple):
    """Where a device fetches a file; `expires_at`: a signed URL's end."""

    url: str
    expires_at: datetime | None


class NoAddress(Exception):
    """No device could fetch the file; the text says why."""


class Catalogue(NamedTuple):
    """Released versions by number: all of them, and why some are not sent."""

    versions: Mapping[int, Version]
    refused: Mapping[int, str]
    """By number: the word that `ota.candidates.REASONS` explains."""
    details: Mapping[int, str]
    """What is wrong with a URL, in words."""
    address: Callable[[Version, datetime], Address]

    @property
    def sendable(self) -> set[int]:
        """Numbers of the versions that may be sent."""
        return self.versions.keys() - self.refused.keys()


def catalogue(
    versions: Sequence[Version],
    keys: Sequence[Key],
    *,
    allow_unsigned: bool,
    allowed_hosts: Sequence[str],
    address: Callable[[Version, datetime], Address],
    now: datetime,
) -> Catalogue:
    """Returns the versions with a verdict on each.

    Args:
        versions: released ones.
        keys: all of them, whatever their status.
        allow_unsigned: also what no key has signed.
        allowed_hosts: where firmware URLs may point to; empty: any host by https.
        address: makes the URL for devices; raises NoAddress.
        now: our clock.
    """
    refused, details = dict[int, str](), dict[int, str]()
    for version in versions:
        untrusted = why_not_trusted(version, keys)
        if untrusted is not None and not (allow_unsigned and untrusted == "unsigned"):
            refused[version.id] = untrusted
            continue
        if version.expires_at is not None and version.expires_at <= now:
            refused[version.id] = "manifest_expired"
            continue
        try:
            problem = why_refused(address(version, now).url, allowed_hosts, signed=untrusted is None and not allow_unsigned)
        except NoAddress as error:
            problem = str(error)
        if problem is not None:
            refused[version.id], details[version.id] = "bad_url", problem
    return Catalogue({version.id: version for version in versions}, refused, details, address)
