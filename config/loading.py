"""Finds, reads and merges the settings; reports every mistake at once, by the option's name."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from config.settings import Settings

PREFIX = "FACTORYD_"
SEARCH_PATH = (Path("factoryd.toml"), Path("/etc/factoryd/factoryd.toml"))


class ConfigError(ValueError):
    """The settings cannot be used; the text has one line per mistake, each naming its option."""


def load_settings(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Merges overrides (highest), the environment FACTORYD_…, the file, and the defaults (lowest).

    Args:
        config_file: a TOML file; default: the first of SEARCH_PATH that exists.
        overrides: nested values that win over everything, e.g. {"http": {"port": 0}}.

    Raises:
        ConfigError: with every mistake, one per line.
    """
    path = find_config_file(config_file)
    unknown = list(_unknown_variables(os.environ))
    try:
        settings = Settings(**(_read_toml(path) if path else {}))
        if overrides:
            settings = Settings.model_validate(_merged(settings.model_dump(), overrides))
    except ValidationError as error:
        raise ConfigError("\n".join([*unknown, *(_line(item) for item in error.errors())])) from error
    if unknown:
        raise ConfigError("\n".join(unknown))
    return settings


def find_config_file(given: Path | None) -> Path | None:
    """Returns the file to read: the one given, else the first of SEARCH_PATH that exists, else None.

    Raises:
        ConfigError: the given file does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise ConfigError(f"{given}: no such file; name an existing one with --config")
        return given
    return next((path for path in SEARCH_PATH if path.is_file()), None)


def show_settings(settings: Settings) -> Iterator[str]:
    """Yields the effective settings as `option = value` lines, secrets masked."""
    yield from _lines("", settings.model_dump())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _merged(low: dict[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        merged[key] = _merged(merged.get(key) or {}, value) if isinstance(value, Mapping) else value
    return merged


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """A misspelt variable would otherwise be ignored without a word."""
    for name in sorted(environment):
        section, _, rest = name.removeprefix(PREFIX).lower().partition("__")
        if not name.startswith(PREFIX):
            continue
        field = Settings.model_fields.get(section)
        known = getattr(field.annotation, "model_fields", {}) if field else {}
        if field is None or (rest and rest.partition("__")[0] not in known):
            yield f"{name}: no such option; see factoryd check-config for all of them"


def _line(item: ErrorDetails) -> str:
    option = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return f"{option}: no such option"
    text = item["msg"].removeprefix("Value error, ")
    given = item["input"]
    shown = "" if isinstance(given, (dict, SecretStr, Settings)) or _is_secret(option) else f" (got {given!r})"
    return f"{option}: {text}{shown}"


def _is_secret(option: str) -> bool:
    return option.endswith("url")


def _lines(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _lines(f"{name}.", value)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            for index, item in enumerate(value):
                yield from _lines(f"{name}.{index}.", item)
        else:
            yield f"{name} = {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "**********"
    return "(not set)" if value is None else str(value)
