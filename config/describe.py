"""Writes docs/settings.md from the models, so that the page cannot say anything else than the code.

`python -m config.describe > docs/settings.md`; a test compares the two.
"""

import json
from collections.abc import Iterator
from typing import Any

from config.loading import PREFIX
from config.settings import Settings

HEAD = """# Settings

Written by `python -m config.describe` from `config/settings.py`.

Read from `--config FILE`, else `factoryd.toml` in the current directory, else `/etc/factoryd/factoryd.toml`. An environment
variable wins over the file: `{prefix}` and the option's name in capitals, with `__` between section and option, such as
`{prefix}MQTT__URL`; a list is given as JSON. An option that does not exist is a mistake, in the file as in the environment.
`factoryd check-config` prints the effective settings with secrets masked, or every mistake at once, with exit code 78.
"""


def describe() -> Iterator[str]:
    """Yields the page line by line: one table per section."""
    schema = Settings.model_json_schema()
    sections: dict[str, Any] = schema["$defs"]
    yield from HEAD.format(prefix=PREFIX).splitlines()
    yield from _table("Top level", {k: v for k, v in schema["properties"].items() if _section(v, sections) is None})
    for name, option in schema["properties"].items():
        if (section := _section(option, sections)) is not None:
            yield from _table(f"[{name}]", section["properties"], section.get("description", ""))
    yield from _table("[[ingest.source]]", sections["SourceSettings"]["properties"], sections["SourceSettings"]["description"])


def _section(option: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any] | None:
    reference = str(option.get("$ref", "")).rpartition("/")[2]
    return sections.get(reference)


def _table(title: str, options: dict[str, Any], text: str = "") -> Iterator[str]:
    yield from ("", f"## {title}", "")
    if text:
        yield from (text, "")
    yield from ("| option | values | default | meaning |", "|---|---|---|---|")
    for name, option in options.items():
        default = f"`{json.dumps(option['default'])}`" if option.get("default") not in (None, [], {}) else "none"
        meaning = str(option.get("description", "")).replace("|", r"\|")
        yield f"| `{name}` | {_values(option)} | {default} | {meaning} |"


def _values(option: dict[str, Any]) -> str:
    kinds = [kind for kind in option.get("anyOf", [option]) if kind.get("type") != "null"]
    return " or ".join(map(_kind, kinds))


def _kind(option: dict[str, Any]) -> str:
    if "enum" in option:
        return ", ".join(f"`{value}`" for value in option["enum"])
    words = {"string": "text", "integer": "whole number", "array": "list", "object": "table", "boolean": "true or false"}
    name = "secret text" if option.get("format") == "password" else words.get(option["type"], option["type"])
    low, high = option.get("minimum"), option.get("maximum")
    bounds = [f"above {option['exclusiveMinimum']:g}"] if "exclusiveMinimum" in option else []
    bounds += [f"{low} to {high}" if high is not None else f"at least {low}"] if low is not None else []
    return " ".join([name, *bounds])


if __name__ == "__main__":
    print("\n".join(describe()))
