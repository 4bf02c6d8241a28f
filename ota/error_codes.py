"""PURE. What a device may give as the reason of a failure, and whether trying again can help (docs/ota-device-guide.md)."""

from enum import Enum


class Cure(Enum):
    """What helps."""

    RETRY = "retry"
    """Another attempt, later."""
    RETRY_ONCE = "retry once"
    """Another attempt; the same reason twice is the file's fault, not the line's."""
    NEW_URL = "new url"
    """The same attempt with a fresh URL."""
    NEVER = "never"


CURES: dict[str, Cure] = {
    "network": Cure.RETRY,
    "http_5xx": Cure.RETRY,
    "http_429": Cure.RETRY,
    "url_expired": Cure.NEW_URL,
    "http_4xx": Cure.NEVER,
    "stalled": Cure.RETRY,
    "size_mismatch": Cure.RETRY_ONCE,
    "digest_mismatch": Cure.RETRY_ONCE,
    "signature_invalid": Cure.NEVER,
    "manifest_expired": Cure.NEVER,
    "sequence_too_old": Cure.NEVER,
    "wrong_hardware": Cure.NEVER,
    "wrong_device": Cure.NEVER,
    "min_version": Cure.NEVER,
    "no_space": Cure.NEVER,
    "busy": Cure.RETRY,
    "low_power": Cure.RETRY,
    "flash_write": Cure.NEVER,
    "install_failed": Cure.NEVER,
    "self_test_failed": Cure.NEVER,
    "boot_failed": Cure.NEVER,
    "busy_with_other": Cure.RETRY,
    "command_expired": Cure.RETRY,
    "internal": Cure.RETRY,
    "unknown": Cure.NEVER,
}


REFUSALS_RETRIED = frozenset({"busy_with_other", "command_expired"})
"""A refusal is final, but for these: they speak of the moment, not of the version."""


def cure_of(code: str | None, retryable: bool | None) -> Cure:
    """Returns what helps against a failure.

    Args:
        code: the device's error code; a word that is not in the table counts as `unknown`.
        retryable: the device's own opinion. It can forbid another attempt, and allow one only for a reason we do not know:
            nobody flashes a device in a loop because it says so.
    """
    cure = CURES.get(code or "unknown")
    if retryable is False:
        return Cure.NEVER
    if cure is None or code in {None, "unknown"}:
        return Cure.RETRY if retryable else Cure.NEVER
    return cure
