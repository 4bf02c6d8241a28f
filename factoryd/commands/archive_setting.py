"""Where data goes that is past its time must have been said."""

from config.loading import ConfigError
from config.settings import Settings

NOT_SAID = (
    "archive.url: not set; say where data goes that is past its time: s3://bucket/prefix or file:///mnt/archive, or none to "
    "delete it without an archive"
)


def require_archive(settings: Settings) -> None:
    """Raises ConfigError unless it was said where data goes that is past its time."""
    if settings.archive.url is None:
        raise ConfigError(NOT_SAID)
