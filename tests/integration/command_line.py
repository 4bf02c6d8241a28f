"""Calls the command line in-process, with a test's database."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from typer.testing import CliRunner

from factoryd.__main__ import app


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """`factoryd` with the URLs of one database."""

    database_url: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Answer:
        environment = {"FACTORYD_DATABASE__URL": self.database_url, **self.environment}
        result = CliRunner().invoke(app, list(arguments), input=stdin, env=environment, catch_exceptions=False)
        return Answer(result.exit_code, result.stdout, result.stderr)

    def good(self, *arguments: str, stdin: str | bytes | None = None) -> str:
        answer = self(*arguments, stdin=stdin)
        assert answer.code == 0, answer.err
        return answer.out


def rows(url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Runs a statement as the given identity."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []


QUARANTINE = """
    INSERT INTO quarantine (received_at, topic, device, reason, detail, payload, repeats)
    VALUES (now() - %s::interval, %s, %s, %s, %s, %s, %s) RETURNING id"""


def quarantine(
    url: str,
    device: str | None,
    reason: str,
    payload: bytes = b"{}",
    *,
    ago: str = "1 minute",
    detail: str = "",
    repeats: int = 1,
) -> int:
    """Puts a message into the quarantine, as the daemon does."""
    topic = f"factory/devices/{device}/telemetry"
    number: int = rows(url, QUARANTINE, ago, topic, device, reason, detail, payload, repeats)[0][0]
    return number
