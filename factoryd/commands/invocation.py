"""What every command gets from the command line's root: the settings, loaded when they are first needed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings import Settings


@dataclass(slots=True)
class Invocation:
    """One call of the command line."""

    config_file: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> "Settings":
        """Loads the settings.

        Raises:
            ConfigError: with every mistake.
        """
        from config.loading import load_settings  # noqa: PLC0415 - `factoryd --help` must not wait for pydantic

        return load_settings(self.config_file, self.overrides)


def settings_of(context: Any) -> "Settings":
    """Returns the settings of the running command (its typer.Context)."""
    invocation = context.find_object(Invocation)
    assert invocation is not None, "the root command sets it"
    settings: Settings = invocation.settings()
    return settings
