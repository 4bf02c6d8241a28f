"""PURE. The order of versions: SemVer 2.0.0, section 11; build metadata is of no consequence."""

import re

SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
Key = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def is_semver(text: str) -> bool:
    """Tells whether `text` is a semantic version."""
    found = SEMVER.fullmatch(text)
    return found is not None and not any(part.isdecimal() and len(part) > 1 and part[0] == "0" for part in _parts(found[4]))


def precedence(text: str) -> Key | None:
    """Returns a key that orders versions, or None if `text` is not a semantic version: it cannot be compared."""
    found = SEMVER.fullmatch(text)
    if found is None or not is_semver(text):
        return None
    # Numbers come before words, and a pre-release before the release.
    parts = tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in _parts(found[4]))
    return int(found[1]), int(found[2]), int(found[3]), found[4] is None, parts


def is_newer(version: str, than: str) -> bool:
    """Tells whether `version` comes after `than`; False if one of them cannot be compared."""
    one, other = precedence(version), precedence(than)
    return one is not None and other is not None and one > other


def _parts(pre_release: str | None) -> list[str]:
    return pre_release.split(".") if pre_release else []
