"""`[ota]`: firmware over the air. Its defaults are those of docs/ota.md, where each is explained."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

Seconds = Annotated[float, Field(gt=0, le=30 * 86400)]


class OtaSettings(BaseModel):
    """Firmware: who may be trusted, where it lies, and how long each phase may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_unsigned: bool = Field(
        False,
        description="Send versions without a signature of a trusted key. For trials: whoever writes the database, flashes.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts (host or host:port) that firmware URLs may point to; empty: any, by https. Plain http only to hosts "
        "named here, and only for signed versions.",
    )
    artifact_url: str | None = Field(
        None, description="Where factoryd firmware add --file puts files: s3://bucket/prefix or file:///path."
    )
    artifact_base_url: str | None = Field(
        None, description="What devices fetch files of a file:// artifact_url from: https://host/path, served by a web server."
    )
    s3_endpoint_url: str | None = Field(
        None,
        description="S3 server other than AWS, as devices reach it; credentials come from the environment, as for all tools.",
    )
    url_expires_s: Seconds = Field(
        86_400.0, le=604_800, description="Life of a presigned URL (S3 allows 7 days); a device asks for a new one after it."
    )
    command_expires_s: Seconds = Field(86_400.0, description="A device refuses a command that is older than this.")
    max_attempts: int = Field(3, ge=1, le=100, description="Attempts of deployments that state none.")
    ack_s: Seconds = Field(
        120.0, description="Longest wait for a device that is online to acknowledge; then the command is sent again."
    )
    max_resends: int = Field(5, ge=0, le=100, description="So often within an attempt; then it has timed out.")
    stall_s: Seconds = Field(900.0, description="Longest time without progress while downloading or verifying.")
    install_s: Seconds = Field(1800.0, description="Longest installation.")
    reboot_s: Seconds = Field(900.0, description="Longest reboot.")
    confirm_s: Seconds = Field(
        600.0, description="Longest wait for the new version to be told, after the device said succeeded."
    )
    attempt_s: Seconds = Field(14_400.0, description="Longest attempt, offline times included.")
    cancel_s: Seconds = Field(
        120.0, description="Longest wait for the answer to a cancel; then the deployment ends without it."
    )
    retry_base_s: Seconds = Field(60.0, description="Pause before the second attempt; jittered down to half of it.")
    retry_factor: float = Field(2.0, ge=1, le=10, description="Each further pause is longer by this factor.")
    retry_cap_s: Seconds = Field(3600.0, description="Longest pause.")

    @field_validator("artifact_url")
    @classmethod
    def _is_a_store(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is not None and not ((parts.scheme == "s3" and parts.netloc) or (parts.scheme == "file" and parts.path)):
            raise ValueError("must look like s3://bucket/prefix or file:///srv/firmware")
        return value

    @field_validator("artifact_base_url", "s3_endpoint_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is not None and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError("must look like https://host/path")
        return value
