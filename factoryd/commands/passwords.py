"""PURE. People's passwords: bcrypt."""

import bcrypt

from storage.refusals import InvalidInput

COST = 12
"""2^12 rounds: about 0.2 s per attempt (OWASP asks for 10 or more)."""
MAX_BYTES = 72
"""bcrypt reads no further: a longer one would be cut off without a word."""
MIN_CHARACTERS = 12
NO_PASSWORD = "!"  # noqa: S105 - it is the mark for "none": no password has this hash


def hash_password(password: str) -> str:
    """Returns the bcrypt hash of a password.

    Raises:
        InvalidInput: bcrypt cannot hash all of it, or it is too short.
    """
    raw = password.encode("utf-8", "surrogateescape")
    if "\0" in password:
        raise InvalidInput("the password holds the character NUL, where bcrypt ends; choose another")
    if len(raw) > MAX_BYTES:
        raise InvalidInput(f"the password has {len(raw)} bytes, and bcrypt takes {MAX_BYTES}; choose a shorter one")
    if len(password) < MIN_CHARACTERS:
        raise InvalidInput(f"the password has {len(password)} characters; choose at least {MIN_CHARACTERS}")
    return bcrypt.hashpw(raw, bcrypt.gensalt(COST)).decode()
