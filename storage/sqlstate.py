"""PURE. What a PostgreSQL error means for a batch: try again, or look for the row that can never fit. One table.

Source: PostgreSQL documentation, appendix A. The answer is by class (first two characters), with the exceptions named.
"""

from enum import Enum


class Remedy(Enum):
    """What to do after an error."""

    RETRY = "retry"
    """The server or the moment is at fault: the same transaction may succeed later."""
    BISECT = "bisect"
    """A row is at fault: find it, quarantine it, keep its neighbours."""
    CRASH = "crash"
    """We are at fault, or the schema is not ours: no retry helps, and no row may be blamed."""


_CLASSES = {
    "08": Remedy.RETRY,  # connection exception
    "0A": Remedy.CRASH,  # feature not supported
    "21": Remedy.CRASH,  # cardinality violation: our own statement touched a row twice
    "22": Remedy.BISECT,  # data exception: out of range, NUL in text, invalid JSON
    "23": Remedy.BISECT,  # integrity constraint violation: foreign key, unique, check, no partition
    "25": Remedy.RETRY,  # invalid transaction state; 25006 = read-only: an old primary, or a standby
    "26": Remedy.RETRY,  # prepared statement vanished (pooler, failover)
    "28": Remedy.RETRY,  # authorisation refused: a password being rotated must not cost a reading
    "3D": Remedy.RETRY,  # database does not exist: being restored
    "40": Remedy.RETRY,  # serialization failure, deadlock
    "42": Remedy.CRASH,  # syntax, undefined table or column, no privilege
    "53": Remedy.RETRY,  # out of disk, memory or connections
    "54": Remedy.BISECT,  # program limit exceeded: a value too large for an index
    "55": Remedy.RETRY,  # lock not available, object in use
    "57": Remedy.RETRY,  # shutdown, crash recovery, statement cancelled by a time-out
    "58": Remedy.RETRY,  # I/O error outside PostgreSQL
    "F0": Remedy.RETRY,  # configuration file error
    "XX": Remedy.RETRY,  # internal error, corrupted data: somebody must look, and nothing is lost meanwhile
}

NO_PARTITION = "23514"
"""check_violation: "no partition of relation found for row" comes under it."""
FOREIGN_KEY = "23503"
UNIQUE = "23505"


def remedy(sqlstate: str | None) -> Remedy:
    """Returns what to do; without a SQLSTATE the connection broke, and whether a COMMIT arrived is unknown: retry."""
    if sqlstate is None:
        return Remedy.RETRY
    return _CLASSES.get(sqlstate[:2], Remedy.CRASH)
