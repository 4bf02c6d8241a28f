"""PURE. Bytes to objects: JSON or MessagePack, one object or an array of them, each with its own bytes.

Lenient where a neighbour must be saved: Python's `json` writes NaN, which no standard allows; such a document is read again
with the standard library, so that only the reading that holds the NaN is lost to quarantine.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from ingest.reading import Reason

MSGPACK = "application/msgpack"
OVERFLOW = 10**400
"""Stands for a number that no double can hold; NaN for any of the literals NaN, Infinity, -Infinity."""

_WHITESPACE = b" \t\n\r"
_SPACES = re.compile(r"[ \t\n\r]*")
_LONGEST_INTEGER = 400


class BadPayload(ValueError):
    """The whole message cannot be read; `reason` says why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


_json_parts = msgspec.json.Decoder(list[msgspec.Raw])
_json_any = msgspec.json.Decoder()
_msgpack_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
_msgpack_any = msgspec.msgpack.Decoder()


def is_msgpack(payload: bytes, content_type: str | None) -> bool:
    """Tells MessagePack from JSON: by content type if it says either, else by the first byte (a map or an array).

    What begins like JSON's object or array is JSON whatever it is said to be: in MessagePack it would be a bare number.
    """
    if content_type is not None:
        kind = content_type.partition(";")[0].strip().lower()
        if kind in {MSGPACK, "application/x-msgpack", "application/vnd.msgpack"}:
            return payload.lstrip(_WHITESPACE)[:1] not in {b"{", b"["}
        if kind == "application/json":
            return False
    return bool(payload) and (0x80 <= payload[0] <= 0x9F or 0xDC <= payload[0] <= 0xDF)


def read_parts(payload: bytes, content_type: str | None, *, max_parts: int, max_depth: int) -> list[tuple[Any, bytes]]:
    """Returns each element of an array, or the one object, with the bytes it was written in.

    Raises:
        BadPayload: the message as a whole is unreadable or beyond a limit.
    """
    if not payload:
        raise BadPayload(Reason.EMPTY, "no bytes")
    try:
        parts = _msgpack(payload) if is_msgpack(payload, content_type) else _json(payload)
    except RecursionError as error:
        raise BadPayload(Reason.TOO_DEEP, f"nested deeper than {max_depth} levels") from error
    if len(parts) > max_parts:
        raise too_many(len(parts), max_parts)
    in_array = any(raw is not payload for _, raw in parts)
    if any(in_array + depth_of(part, max_depth) > max_depth for part, _ in parts):
        raise BadPayload(Reason.TOO_DEEP, f"nested deeper than {max_depth} levels")
    return parts


def too_many(count: int, limit: int) -> BadPayload:
    """Returns the refusal of a message with too many readings."""
    return BadPayload(Reason.TOO_MANY_READINGS, f"{count} readings in one message; the limit is {limit}")


def depth_of(value: object, limit: int) -> int:
    """Returns how many levels of objects and arrays `value` has; stops counting one past `limit`."""
    if limit < 0 or not isinstance(value, (dict, list)):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max((depth_of(child, limit - 1) for child in children), default=0)


def _msgpack(payload: bytes) -> list[tuple[Any, bytes]]:
    try:
        if 0x90 <= payload[0] <= 0x9F or payload[0] in {0xDC, 0xDD}:
            return [(_msgpack_any.decode(raw), bytes(raw)) for raw in _msgpack_parts.decode(payload)]
        return [(_msgpack_any.decode(payload), payload)]
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError) as error:
        raise BadPayload(Reason.MALFORMED, f"not MessagePack: {error}") from error


def _json(payload: bytes) -> list[tuple[Any, bytes]]:
    try:
        if payload.lstrip(_WHITESPACE)[:1] == b"[":
            return [(_json_any.decode(raw), bytes(raw)) for raw in _json_parts.decode(payload)]
        return [(_json_any.decode(payload), payload)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return list(_lenient_json(payload, str(error)))


def _lenient_json(payload: bytes, strict_error: str) -> Iterator[tuple[Any, bytes]]:
    try:
        text = payload.decode("utf-8")
        start = _skip(text, 0)
        if text[start : start + 1] != "[":
            value, end = _lenient.raw_decode(text, start)
            _expect_end(text, end)
            yield value, payload
            return
        yield from _lenient_elements(text, start + 1)
    except (ValueError, IndexError) as error:
        raise BadPayload(Reason.MALFORMED, f"not JSON: {strict_error}") from error


def _lenient_elements(text: str, position: int) -> Iterator[tuple[Any, bytes]]:
    while True:
        begin = _skip(text, position)
        value, end = _lenient.raw_decode(text, begin)
        yield value, text[begin:end].encode("utf-8", "surrogatepass")
        after = _skip(text, end)
        if text[after] == "]":
            _expect_end(text, after + 1)
            return
        if text[after] != ",":
            raise ValueError("expected , or ]")
        position = after + 1


def _skip(text: str, position: int) -> int:
    found = _SPACES.match(text, position)
    return found.end() if found else position


def _expect_end(text: str, position: int) -> None:
    if _skip(text, position) != len(text):
        _fail("trailing text")


def _fail(why: str) -> NoReturn:
    raise ValueError(why)


def _integer(digits: str) -> int:
    return int(digits) if len(digits) < _LONGEST_INTEGER else OVERFLOW


def _fraction(digits: str) -> float | int:
    number = float(digits)
    return number if math.isfinite(number) else OVERFLOW


_lenient = json.JSONDecoder(parse_constant=lambda _: math.nan, parse_int=_integer, parse_float=_fraction)
