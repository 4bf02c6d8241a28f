"""Settings: what every option means, its unit, and why its default is what it is.

Loaded once at start (`config.loading`), frozen, and handed down in pieces: each room receives only its own model.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.ota_settings import OtaSettings
from config.storage_settings import ArchiveSettings, BackupSettings, RetentionSettings


class Section(BaseModel):
    """A frozen group of options; an unknown option is an error, so a typing mistake cannot pass unseen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Seconds = Annotated[float, Field(gt=0)]


class DatabaseSettings(Section):
    """PostgreSQL 15 to 18."""

    url: SecretStr | None = Field(None, description="The daemon's own role: postgresql://user:password@host:port/database.")
    owner_url: SecretStr | None = Field(
        None, description="The schema's owner: migrations and partitions. Without it the daemon makes no partitions."
    )
    connect_timeout_s: Seconds = Field(5.0, description="Longest wait for one connection attempt.")
    statement_timeout_s: Seconds = Field(
        30.0, description="Longest run of one statement of the daemon; a stuck one is retried."
    )
    pool_max_connections: int = Field(
        4, ge=2, le=64, description="Connections beside the writer's own (look-ups, presence, probes)."
    )

    disk_bytes: int | None = Field(
        None,
        ge=1,
        description="Size of the disk that holds the database, for the days until it is full; default: it is looked at, if it "
        "is on this host and the role may ask where the data lies (pg_read_all_settings).",
    )

    @field_validator("url", "owner_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("must start with postgresql://")
        return value


class MqttSettings(Section):
    """The broker, and the daemon's two sessions on it (telemetry and control)."""

    url: SecretStr | None = Field(None, description="mqtt://user:password@host:1883 or mqtts://… for TLS.")
    root: str = Field("factory", description="First levels of every topic, so that one broker can carry several sites.")
    ca_file: Path | None = Field(None, description="CA certificates for mqtts (PEM); default: the system's.")
    cert_file: Path | None = Field(None, description="Client certificate for mqtts (PEM).")
    key_file: Path | None = Field(None, description="Key of cert_file (PEM).")
    keep_alive_s: int = Field(
        30, ge=5, le=3600, description="MQTT keep-alive; a dead connection is noticed after 1.5 times this."
    )
    session_expiry_s: int = Field(
        7 * 86400,
        ge=60,
        le=0xFFFFFFFE,
        description="How long the broker keeps our queue while we are away. 7 days: a long weekend and more.",
    )
    receive_maximum: int = Field(
        16384,
        ge=20,
        le=65534,
        description="Unacknowledged messages the broker may have in flight to us: the window. "
        "65535 is refused: the codec omits it, and mosquitto then falls back to 20.",
    )
    max_packet_bytes: int = Field(1_048_576, ge=1024, description="Largest packet we accept; the broker drops larger ones.")
    broker_max_queued_messages: int | None = Field(
        None,
        ge=1,
        description="The broker's max_queued_messages, which it tells nobody: for the metric of its headroom.",
    )
    reconnect_max_s: Seconds = Field(15.0, description="Upper bound of the back-off between connection attempts (full jitter).")

    @field_validator("url")
    @classmethod
    def _is_mqtt(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
                raise ValueError("must look like mqtt://host:1883 or mqtts://host:8883")
        return value

    @field_validator("root")
    @classmethod
    def _is_topic(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9_.-]+(/[a-z0-9_.-]+)*", value):
            raise ValueError(
                "must be lower-case topic levels without wildcards, leading or trailing slash, like factory or acme/hall-2"
            )
        return value


class SourceSettings(Section):
    """`[[ingest.source]]`: maps devices that speak another layout onto ours, so that nobody re-flashes them."""

    name: str = Field(pattern=r"^[a-z0-9_-]{1,50}$", description="Shown in logs and quarantine.")
    filter: str = Field(description="MQTT topic filter with exactly one level named {device}, e.g. tele/{device}/SENSOR.")
    format: Literal["json", "telegraf", "thingsboard"] = Field(
        "json",
        description="json: our own layout, or MessagePack. telegraf: {metrics:[{name,tags,fields,timestamp}]} or one metric; "
        "thingsboard: {ts,values} or a list of them.",
    )
    device_field: str | None = Field(
        None, description="Take the device from this field (a tag, for telegraf) instead of the topic."
    )
    time_field: str | None = Field(None, description="Name of the time field; default: recorded_at, ts, timestamp or time.")
    timezone: str | None = Field(None, description="IANA zone of local times without offset; default: the device's own.")
    rename: dict[str, str] = Field(
        default_factory=dict, description="Flattened metric name to ours, e.g. {AM2301_Temperature = 'temperature'}."
    )
    scale: dict[str, float] = Field(
        default_factory=dict, description="Factor per metric (after rename), e.g. {pressure = 0.1} for hPa."
    )

    @field_validator("filter")
    @classmethod
    def _has_device(cls, value: str) -> str:
        levels = value.split("/")
        if "#" in levels[:-1] or any(("+" in level or "#" in level) and len(level) > 1 for level in levels):
            raise ValueError("wildcards + and # must be whole levels, and # the last one")
        if levels.count("{device}") > 1:
            raise ValueError("{device} may stand for one level only")
        return value

    @model_validator(mode="after")
    def _knows_its_device(self) -> Self:
        if "{device}" not in self.filter.split("/") and self.device_field is None:
            raise ValueError("filter needs a {device} level, or set device_field")
        return self


class IngestSettings(Section):
    """Telemetry: limits, clocks and batches."""

    auto_register: bool = Field(False, description="Create a device on its first message instead of quarantining it.")
    batch_max_messages: int = Field(10_000, ge=1, le=100_000, description="Most messages in one transaction.")
    batch_max_readings: int = Field(
        50_000, ge=1000, le=1_000_000, description="Most readings in one transaction (messages may carry 1,000 each)."
    )
    buffer_max_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1024 * 1024,
        description="Received, not yet committed payload bytes; above it the socket is paused.",
    )
    buffer_max_messages: int = Field(
        20_000,
        ge=1,
        description="Received, not yet committed messages; above it the socket is paused. mosquitto 2.0.11 sends more than "
        "the receive maximum under backlog, so memory is bounded here: about 1 kB each.",
    )
    linger_ms: float = Field(
        2.0, ge=0, le=2, description="Pause before a batch under load only, so that it grows; 0 switches it off."
    )
    max_payload_bytes: int = Field(65_536, ge=128, description="Larger payloads are quarantined.")
    max_readings_per_message: int = Field(
        1_000, ge=1, le=100_000, description="Elements of one array; a larger one is quarantined."
    )
    max_extra_metrics: int = Field(64, ge=0, le=1_000, description="Metrics beyond the six columns, per reading.")
    max_clock_skew_s: Seconds = Field(
        300.0, description="A reading further ahead of our clock is stored at its time of receipt."
    )
    quarantine_per_device_hour: int = Field(
        100, ge=1, description="Quarantined messages kept per device and hour; beyond it one sample and a count."
    )
    rejected_notice_interval_s: Seconds = Field(
        10.0, description="At most one notice per device on its rejected topic in this time."
    )
    source: tuple[SourceSettings, ...] = Field((), description="[[ingest.source]]: other layouts, mapped onto ours.")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [source.name for source in self.source]
        if len(names) != len(set(names)):
            raise ValueError("each [[ingest.source]] needs a name of its own")
        return self


class PresenceSettings(Section):
    """Who is online."""

    write_interval_s: Seconds = Field(2.0, description="Changes of status are written in batches this often.")
    last_seen_interval_s: Seconds = Field(
        15.0,
        description="last_seen of a device whose status has not changed is written this often, spread evenly over the time: "
        "so far may it lag in the database. An orderly end writes them all.",
    )
    silent_intervals: float = Field(
        3.0, ge=1, description="A device is offline after this many of its own --interval without a message."
    )
    default_interval_s: Seconds | None = Field(
        None, description="Interval of devices that state none; default: never timed out."
    )


class AlertingSettings(Section):
    """Thresholds, alerts, and who is told."""

    timezone: str = Field("UTC", description="IANA zone of the times in message texts: the site's.")
    message_template: str = Field(
        "{name} ({location}): {metric} {value} {unit} {relation} {limit} {unit}, {time}",
        description="Text of an alert. Known: name, device, location, metric, value, unit, relation (above or below), limit, "
        "time, severity.",
    )
    late_after_s: Seconds = Field(
        300.0,
        description="An older reading is a backlog's: it may resolve an alert, but raises one only if a fresh one confirms it.",
    )
    offline: Literal["critical", "warning", "info", "off"] = Field(
        "warning", description="Severity of the alert about a device that is offline; off: none is raised."
    )
    offline_delay_s: float = Field(
        30.0, ge=0, description="How long a device must be offline before its alert; a short reconnect pages nobody."
    )
    stale_after_s: Seconds = Field(
        600.0,
        description="An open alert is marked stale when its metric has not come for this long, unless the threshold or the "
        "device's interval says otherwise.",
    )
    keep_resolved_h: float = Field(
        24.0, gt=0, description="Resolved states stay retained at the broker for this long; then they are cleared."
    )
    alertmanager_url: SecretStr | None = Field(
        None,
        description="http(s)://[user:password@]host:9093[/prefix] of a Prometheus Alertmanager that is sent the same alerts; "
        "default: none.",
    )

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (LookupError, ValueError, OSError) as error:
            raise ValueError("must be an IANA time zone, like Europe/Berlin") from error
        return value

    @field_validator("message_template")
    @classmethod
    def _is_template(cls, value: str) -> str:
        known = ("name", "device", "location", "metric", "value", "unit", "relation", "limit", "time", "severity")
        try:
            value.format(**dict.fromkeys(known, ""))
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"must be text with fields in braces, out of: {', '.join(known)}") from error
        return value

    @field_validator("alertmanager_url")
    @classmethod
    def _is_http(cls, value: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(value.get_secret_value()) if value is not None else None
        if parts is not None and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError("must look like http://host:9093")
        return value


class HttpSettings(Section):
    """Metrics and health."""

    host: str = Field(
        "127.0.0.1", description="Bind address. There is no authentication: keep it on loopback or behind a proxy."
    )
    port: int = Field(9464, ge=0, le=65535, description="0 takes a free port.")
    ready_max_lag_s: Seconds = Field(
        60.0, description="/readyz answers 503 while the oldest unacknowledged message is older than this."
    )


class LogSettings(Section):
    """structlog on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe event that is written.")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: coloured lines on a terminal, else JSON.")


class Settings(BaseSettings):
    """Everything. `config.loading.load_settings` makes it; environment variables win over the file's values."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="FACTORYD_", env_nested_delimiter="__")

    instance: str = Field("main", pattern=r"^[a-z0-9_-]{1,50}$", description="Name of this daemon in {root}/daemon/{instance}.")
    shutdown_timeout_s: Seconds = Field(
        30.0, description="Bound over the whole orderly shutdown; a second signal exits at once."
    )
    database: DatabaseSettings = DatabaseSettings()
    mqtt: MqttSettings = MqttSettings()
    ingest: IngestSettings = IngestSettings()
    presence: PresenceSettings = PresenceSettings()
    alerting: AlertingSettings = AlertingSettings()
    ota: OtaSettings = OtaSettings()
    retention: RetentionSettings = RetentionSettings()
    archive: ArchiveSettings = ArchiveSettings()
    backup: BackupSettings = BackupSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then what `load_settings` read from the file."""
        return (env_settings, init_settings)

    @model_validator(mode="after")
    def _a_payload_fits_a_packet(self) -> Self:
        if self.ingest.max_payload_bytes > self.mqtt.max_packet_bytes:
            raise ValueError(
                "ingest.max_payload_bytes must not exceed mqtt.max_packet_bytes: such a payload could never arrive"
            )
        return self
