"""PURE. The fast way of decoding: messages of the common shape, typed. Whatever is unusual takes the long way.

A property test holds the two ways together: what this one accepts, `ingest.decoding.decode` reads alike.
"""

from datetime import datetime

import msgspec

from ingest.clocks import NO_CLOCK_BEFORE, BadTime, TimeWindow, epoch_time
from ingest.decoding import MAX_SEQ, is_boot_id
from ingest.reading import Wire

WireErrors = (msgspec.ValidationError, msgspec.DecodeError, RecursionError, UnicodeDecodeError)
decode_wire = msgspec.json.Decoder(Wire | list[Wire]).decode
"""Typed decoding of the common shape; raises one of `WireErrors` for any other."""


class LongWay(Exception):
    """A turn in the road, not an error: this message needs the rules of `ingest.decoding.decode`."""


def stated_time(wire: Wire, window: TimeWindow) -> datetime | None:
    """Returns the time a reading states, checked; None if it states none. Raises LongWay for all that is unusual."""
    if wire.seq is not None and not 0 <= wire.seq <= MAX_SEQ:
        raise LongWay
    if wire.boot_id is not None and not is_boot_id(wire.boot_id):
        raise LongWay
    if (
        wire.temperature is None
        and wire.humidity is None
        and wire.pressure is None
        and wire.vibration is None
        and wire.power_consumption is None
        and wire.rpm is None
    ):
        raise LongWay
    stated = wire.recorded_at
    if stated is None:
        return None
    if not isinstance(stated, datetime):
        try:
            stated = epoch_time(stated)
        except BadTime as error:
            raise LongWay from error
    if window.oldest <= stated <= window.newest and stated >= NO_CLOCK_BEFORE:
        return stated
    raise LongWay
