"""The root of the command line: each command's module is imported when that command is called, and not before.

Expected errors end here: one clear line on standard error and the exit code of `factoryd.exit_codes`, never a traceback.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
import typer.core
import typer.main

from factoryd.exit_codes import cause_of, exit_code_of


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is, and its line in the list of commands."""

    module: str
    attribute: str
    summary: str


class CommandGroup(typer.core.TyperGroup):
    """A group of commands that are known by name and summary until one is called."""

    entries: ClassVar[Mapping[str, Entry]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names in the order of the table."""
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns a stand-in with name and summary: enough for the list of commands."""
        entry = self.entries.get(cmd_name)
        return typer.core.TyperCommand(cmd_name, help=entry.summary) if entry else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Imports the command that was called."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, self._load(name) if name and command else None, rest

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; an expected error becomes a line on standard error and an exit code."""
        try:
            return super().invoke(ctx)
        except Exception as raised:
            error = cause_of(raised)
            code = exit_code_of(error)
            if code is None:
                raise
            for line in str(error).splitlines():
                typer.echo(f"factoryd: {line}", err=True)
            raise typer.Exit(code) from raised

    def _load(self, name: str) -> Any:
        entry = self.entries[name]
        found = getattr(import_module(entry.module), entry.attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        single = typer.Typer(add_completion=False)
        single.command(name, help=None)(found)
        return typer.main.get_command(single)
