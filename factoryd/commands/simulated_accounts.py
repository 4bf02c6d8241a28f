"""Where simulated devices connect, and their accounts there."""

import os
import secrets
import ssl
from collections.abc import Iterable, Sequence
from urllib.parse import SplitResult, unquote, urlsplit

from config.loading import ConfigError
from config.settings import MqttSettings, Settings
from factoryd.commands.reserved_names import refuse_reserved
from mqtt.access import hash_secret, login_name
from mqtt.receiver import tls_context
from simulator.connection import Account, Broker
from simulator.devices import SimulatedDevice
from storage.device_fields import DeviceFields
from storage.device_import import Line
from storage.refusals import InvalidInput
from storage.simulated_devices import register_simulated

SECRET_BYTES = 24
VARIABLES = ("MQTT_DEVICES_URL", "MQTT_TOOLS_URL")
"""As in services.env of the embedded services; the tools' account may publish for any device."""


def broker_of(settings: Settings, url: str | None, accounts: dict[str, Account] | None) -> Broker:
    """Returns the broker to connect to.

    Args:
        settings: mqtt.url is the last resort; TLS files are taken from here.
        url: wins over all.
        accounts: each device's own; None = the account in the URL for all of them, or none.

    Raises:
        ConfigError: no URL is known.
        InvalidInput: the URL is none.
    """
    parts = _url(settings.mqtt, url, VARIABLES if accounts is not None else reversed(VARIABLES))
    tls = _tls(settings.mqtt) if parts.scheme == "mqtts" else None
    shared = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    port = parts.port or (8883 if tls else 1883)
    credentials = accounts if accounts is not None else shared
    return Broker(parts.hostname or "localhost", port, settings.mqtt.root, credentials, tls)


def register_all(settings: Settings, devices: Sequence[SimulatedDevice]) -> dict[str, Account]:
    """Registers simulated devices, each with a new secret, and returns their accounts by device.

    Raises:
        Conflict: one of them is a real device.
    """
    refuse_reserved(settings, [device.device for device in devices])
    accounts = {device.device: (login_name(device.device), secrets.token_urlsafe(SECRET_BYTES)) for device in devices}
    lines = [Line(number, device.device, _fields(device)) for number, device in enumerate(devices, 1)]
    register_simulated(settings.database, lines, {name: hash_secret(secret) for name, (_, secret) in accounts.items()})
    return accounts


def _fields(device: SimulatedDevice) -> DeviceFields:
    return DeviceFields(
        name=device.device,
        type=device.machine_type,
        location=device.location,
        interval_s=device.interval_s or None,
        via=device.via,
    )


def _url(mqtt: MqttSettings, given: str | None, variables: Iterable[str]) -> SplitResult:
    found = given or next((os.environ[name] for name in variables if os.environ.get(name)), None)
    if found is None and mqtt.url is not None:
        found = mqtt.url.get_secret_value()
    if found is None:
        raise ConfigError("no broker is known: give --broker mqtt://host:port, or set mqtt.url")
    parts = urlsplit(found)
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise InvalidInput("--broker must look like mqtt://host:1883 or mqtts://host:8883")
    return parts


def _tls(mqtt: MqttSettings) -> ssl.SSLContext:
    return tls_context(mqtt.model_copy(update={"cert_file": None, "key_file": None}))
