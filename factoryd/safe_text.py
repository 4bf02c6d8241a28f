"""PURE. Makes values fit to be shown: no passwords, no control characters from devices, no endless texts."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

MAX_TEXT = 500
"""Characters of a text; the rest is counted."""
MAX_TRACEBACK = 20_000
MAX_ITEMS = 50
MAX_DEPTH = 4
MASK = "**********"

# Every repetition is bounded: a device may have written the text, and must not make the search slow.
_URL_PASSWORD = re.compile(r"(?P<before>[a-z][a-z0-9+.-]{0,20}://[^\s:@/]{0,256}:)\S{0,512}@", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(?P<before>(?:password|passwd|secret|token)\s{0,8}=\s{0,8})(?:'(?:[^'\\]|\\.){0,512}'|[^\s&]+)", re.IGNORECASE
)
_SECRET_NAME = re.compile(r"password|passwd|secret|token", re.IGNORECASE)


def printable(text: str, limit: int = MAX_TEXT) -> str:
    r"""Returns `text` on one line, cut to `limit` characters; what a terminal would act upon (escapes, bidi) as \xNN."""
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else _escaped(char) for char in cut)
    return cut if len(text) <= limit else f"{cut}… ({len(text) - limit} more)"


def without_secrets(text: str) -> str:
    """Returns `text` with the passwords of URLs and of `password=…` masked; rather too much than too little."""
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\g<before>{MASK}@", text)
    return _ASSIGNED.sub(rf"\g<before>{MASK}", text) if "=" in text else text


def safe_traceback(text: str) -> str:
    """Returns a traceback with its lines, secrets masked; of a very long one the end."""
    return without_secrets(text)[-MAX_TRACEBACK:]


def safe_field(name: str, value: object) -> object:
    """Returns a named value of any type as numbers, safe texts, lists and dicts; a secret's name hides it whole."""
    return MASK if _SECRET_NAME.search(name) else _safe(value, MAX_DEPTH)


def _safe(value: object, depth: int) -> object:
    if isinstance(value, Enum):
        return _safe(value.value, depth)
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _safe(bytes(value[: MAX_TEXT + 1]).decode("utf-8", "backslashreplace"), depth)
    if not isinstance(value, str) and depth:
        if isinstance(value, Mapping):
            return {printable(str(key)): _safe_item(str(key), item, depth) for key, item in _some(value.items())}
        if isinstance(value, (Sequence, set, frozenset)):
            return [_safe(item, depth - 1) for item in _some(value)]
    # Masked before it is cut: half a URL would no longer be known as one.
    return printable(without_secrets(str(value)))


def _safe_item(key: str, value: object, depth: int) -> object:
    return MASK if _SECRET_NAME.search(key) else _safe(value, depth - 1)


def _some(items: Iterable[T]) -> Iterable[T]:
    return islice(items, MAX_ITEMS)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
