"""Names that no device may have: the broker knows factoryd's own accounts by them."""

from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from config.settings import Settings
from factoryd.embedded.mosquitto import DAEMON_USER, TOOLS_USER
from storage.refusals import Conflict


def refuse_reserved(settings: Settings, devices: Iterable[str]) -> None:
    """Raises Conflict if one of the devices is named like an account of factoryd."""
    for device in devices:
        if device in reserved_names(settings):
            raise Conflict(f"a device must not be named {device}: that is an account of factoryd at the broker")


def reserved_names(settings: Settings) -> frozenset[str]:
    """Returns the user names of factoryd's own accounts."""
    url = settings.mqtt.url
    user = urlsplit(url.get_secret_value()).username if url is not None else None
    return frozenset({DAEMON_USER, TOOLS_USER, *([unquote(user)] if user else [])})
