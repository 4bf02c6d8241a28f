"""Many devices at once: all of a list, or nothing of it. A second run with the same list changes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from config.settings import DatabaseSettings
from storage.command_connection import registry_change
from storage.device_admin import insert_device, resolved, update_device
from storage.device_fields import DeviceFields
from storage.refusals import InvalidInput


class Line(NamedTuple):
    """One device of a list."""

    number: int
    """In the file, from 1."""
    device: str
    fields: DeviceFields


class Problem(NamedTuple):
    """Why a line cannot be used."""

    number: int
    text: str


class BadLines(InvalidInput):
    """Nothing was imported; one line of text per problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        listed = [f"line {number}: {text}" for number, text in self.problems]
        super().__init__("\n".join([*listed, f"{len(listed)} bad lines: nothing was imported"]))


@dataclass(slots=True)
class Imported:
    """What an import did."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0


class Registered(NamedTuple):
    """A device as far as an import must know it."""

    number: int
    via: str | None
    retired: bool


STATE = """
    SELECT d.device_id, d.id, g.device_id, d.retired_at IS NOT NULL
    FROM devices d LEFT JOIN devices g ON g.id = d.via_id"""


def import_devices(settings: DatabaseSettings, lines: Sequence[Line], problems: Sequence[Problem] = ()) -> Imported:
    """Registers the new devices and updates the others, in one transaction.

    Args:
        settings: the database.
        lines: the good lines; each sets what its fields name.
        problems: what was found wrong before; reported together with what is found here.

    Raises:
        BadLines: a line is bad, and nothing was changed.
    """
    with registry_change(settings) as connection:
        known = {name: Registered(number, via, gone) for name, number, via, gone in connection.execute(STATE)}
        logins = {login for (login,) in connection.execute("SELECT login FROM users")}
        found = [*problems, *_doubles(lines), *_strangers(lines, known, logins), *_circles(lines, known)]
        if found:
            raise BadLines(found)
        return _write(connection, lines, known)


def _doubles(lines: Sequence[Line]) -> Iterable[Problem]:
    first: dict[str, int] = {}
    for line in lines:
        if first.setdefault(line.device, line.number) != line.number:
            yield Problem(line.number, f"device {line.device} is already on line {first[line.device]}")


def _strangers(lines: Sequence[Line], known: Mapping[str, Registered], logins: set[str]) -> Iterable[Problem]:
    listed = {line.device for line in lines}
    for number, _, fields in lines:
        via, owner = fields.get("via"), fields.get("owner")
        if via and via not in listed and via not in known:
            yield Problem(number, f"via: gateway {via} is neither registered nor in this file")
        if via and via in known and known[via].retired:
            yield Problem(number, f"via: gateway {via} is retired; factoryd device edit {via} --active takes it back")
        if owner and owner not in logins:
            yield Problem(number, f"owner: user {owner} does not exist; factoryd user add makes one")


def _circles(lines: Sequence[Line], known: Mapping[str, Registered]) -> Iterable[Problem]:
    above = {name: device.via for name, device in known.items()}
    above.update({line.device: line.fields["via"] for line in lines if "via" in line.fields})
    for line in lines:
        seen, gateway = set[str](), above.get(line.device)
        while gateway is not None and gateway not in seen:
            seen.add(gateway)
            gateway = above.get(gateway)
        if line.device in seen:
            yield Problem(line.number, f"via: device {line.device} would be behind itself")


def _write(connection: psycopg.Connection, lines: Sequence[Line], known: Mapping[str, Registered]) -> Imported:
    """New devices first, then everyone's fields: a gateway may stand further down in the list than its devices."""
    done = Imported()
    numbers = {name: device.number for name, device in known.items()}
    for line in lines:
        if line.device not in known:
            numbers[line.device] = insert_device(connection, line.device, DeviceFields())
            done.created += 1
    for line in lines:
        changed = update_device(connection, numbers[line.device], resolved(connection, line.fields))
        if line.device in known:
            done.updated += changed
            done.unchanged += not changed
    return done
