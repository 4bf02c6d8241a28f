"""Thresholds as people change them. The daemon notices every change within a second (triggers, NOTIFY).

Under the registry's lock: a device that is registered at the same moment must not slip past a new class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from config.settings import DatabaseSettings
from storage.command_connection import registry_change
from storage.refusals import Conflict, InvalidInput, NotFound
from storage.threshold_fields import Selector, Threshold, check_threshold
from storage.threshold_rows import Stored, insert_class, insert_for_device, load_stored, table_of, update_stored


class Chosen(NamedTuple):
    """Thresholds and classes by number."""

    thresholds: Sequence[int] = ()
    classes: Sequence[int] = ()


def add_threshold(settings: DatabaseSettings, device: str, threshold: Threshold) -> int:
    """Gives a device a threshold, and returns its number.

    Raises:
        InvalidInput: it cannot be so.
        NotFound: no such device or owner.
        Conflict: the device is retired, or has a threshold that says the same.
    """
    check_threshold(threshold)
    with registry_change(settings) as connection:
        there = load_stored(connection, classes=False, where="d.device_id = %s AND t.class_id IS NULL", values=(device,))
        for stored in there:
            _refuse_same(stored, threshold)
        return insert_for_device(connection, device, threshold)


def add_class(settings: DatabaseSettings, selector: Selector, threshold: Threshold) -> int:
    """Gives a threshold to all devices that a selector matches, now and later; returns the number of the class.

    Raises:
        InvalidInput: it cannot be so.
        NotFound: no such owner.
        Conflict: a class with this selector says the same.
    """
    check_threshold(threshold)
    with registry_change(settings) as connection:
        for stored in load_stored(connection, classes=True):
            if stored.selector == selector:
                _refuse_same(stored, threshold)
        return insert_class(connection, selector, threshold)


def edit_thresholds(settings: DatabaseSettings, chosen: Chosen, changes: Mapping[str, Any]) -> list[str]:
    """Changes all that are chosen, or nothing, and returns the names of those that were different before.

    Args:
        settings: the database.
        chosen: which ones.
        changes: new values by the fields of Threshold.

    Raises:
        InvalidInput: one of them cannot be so.
        NotFound: there is no such threshold, class or owner.
        Conflict: a threshold is a class's.
    """
    with registry_change(settings) as connection:
        found = _found(connection, chosen)
        after = [_changed(stored, changes) for stored in found]
        return [
            stored.name for stored, threshold in zip(found, after, strict=True) if update_stored(connection, stored, threshold)
        ]


def delete_thresholds(settings: DatabaseSettings, chosen: Chosen) -> list[str]:
    """Deletes all that are chosen, or nothing, and returns their names; open alerts are resolved by a trigger.

    Raises:
        NotFound: there is no such threshold or class.
        Conflict: a threshold is a class's.
    """
    with registry_change(settings) as connection:
        found = _found(connection, chosen)
        for stored in found:
            connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(table_of(stored)), [stored.id])
        return [stored.name for stored in found]


def _changed(stored: Stored, changes: Mapping[str, Any]) -> Threshold:
    threshold = replace(stored.threshold, **changes)
    try:
        check_threshold(threshold)
    except InvalidInput as error:
        raise InvalidInput(f"{stored.name}: {error}; nothing was changed") from error
    return threshold


def _found(connection: psycopg.Connection, chosen: Chosen) -> list[Stored]:
    found = []
    for numbers, classes in ((chosen.thresholds, False), (chosen.classes, True)):
        there = {
            stored.id: stored
            for stored in load_stored(connection, classes=classes, where="t.id = ANY(%s)", values=(list(numbers),))
        }
        if missing := [str(number) for number in numbers if number not in there]:
            kind, option = ("class", " --classes") if classes else ("threshold", "")
            raise NotFound(f"there is no {kind} {', '.join(missing)}; factoryd threshold list{option} shows all")
        found += [there[number] for number in dict.fromkeys(numbers)]
    for stored in found:
        if stored.class_id is not None:
            raise Conflict(f"{stored.name} is one of class {stored.class_id}: change that, with --class {stored.class_id}")
    return found


def _refuse_same(stored: Stored, threshold: Threshold) -> None:
    """Two that say the same would be two alerts for one fault."""
    old = stored.threshold
    same = (old.metric, old.severity, old.min_value, old.max_value, old.no_data_seconds)
    if same == (threshold.metric, threshold.severity, threshold.min_value, threshold.max_value, threshold.no_data_seconds):
        how = f"--class {stored.id}" if stored.is_class else stored.id
        raise Conflict(f"{stored.name} of {stored.target} has these limits already; factoryd threshold edit {how} changes it")
