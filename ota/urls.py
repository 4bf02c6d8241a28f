"""PURE. Which URLs devices may be sent to, and how a URL is told in logs."""

from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


def why_refused(url: str, allowed_hosts: Sequence[str], signed: bool) -> str | None:
    """Returns why devices must not be sent there, in words, or None.

    Args:
        url: as devices get it.
        allowed_hosts: `host` (any port) or `host:port`; none: any host, by https.
        signed: signatures are enforced and this version has one: then what comes over plain http cannot be something else.
    """
    if not url.isascii() or not url.isprintable() or any(character in url for character in ' \\"<>'):
        return "the URL holds characters that do not belong there: write them as %XX"
    parts = _split(url)
    if parts is None or parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return f"{redacted(url)} is no https URL"
    if "@" in parts.netloc:
        return f"{redacted(url)}: the URL holds a user name or a password, which every device would get to know"
    listed = _is_listed(parts, allowed_hosts)
    if allowed_hosts and not listed:
        return f"{redacted(url)}: the host is not in ota.allowed_hosts"
    if parts.scheme == "http" and not (listed and signed):
        return f"{redacted(url)}: plain http only to hosts in ota.allowed_hosts, and only for signed versions"
    return None


def redacted(url: str) -> str:
    """Returns a URL without what gives access: user, password, query and fragment; for logs and messages."""
    parts = _split(url)
    if parts is None or not parts.scheme:
        return "(a URL that cannot be read)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


def _is_listed(parts: SplitResult, allowed_hosts: Sequence[str]) -> bool:
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return not {name, f"{name}:{port}"}.isdisjoint(allowed.lower() for allowed in allowed_hosts)
