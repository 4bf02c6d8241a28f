"""PURE. The order of versions as a device sees it: SemVer 2.0.0, section 11; build metadata is of no consequence."""

import re

SEMVER = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
Key = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def precedence(text: str) -> Key | None:
    """Returns a key that orders versions, or None if `text` is not a semantic version."""
    found = SEMVER.fullmatch(text)
    if found is None:
        return None
    words = found[4].split(".") if found[4] else []
    # Numbers come before words, and a pre-release before the release.
    parts = tuple((not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words)
    return int(found[1]), int(found[2]), int(found[3]), not words, parts


def is_older(version: str, than: str) -> bool:
    """Tells whether `version` comes before `than`; True also if one of them cannot be compared: a device takes no chances."""
    one, other = precedence(version), precedence(than)
    return one is None or other is None or one < other
