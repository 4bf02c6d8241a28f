"""Exit codes of every command, and which expected error means which. Numbers from sysexits.h where it has one."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    """The operation failed, or what was named does not exist."""
    USAGE = 2
    """The command line, or a value on it, cannot be used."""
    UNAVAILABLE = 69
    """The database or the broker cannot be reached or cannot serve now: try again (EX_UNAVAILABLE)."""
    CONFIG = 78
    """The settings cannot be used (EX_CONFIG)."""


def exit_code_of(error: Exception) -> ExitCode | None:
    """Returns the exit code of an expected error; None for one that nobody expected and that deserves its traceback."""
    return next((code for kind, code in _expected() if isinstance(error, kind)), None)


def cause_of(error: Exception) -> Exception:
    """Returns the one error inside a group of one (a TaskGroup wraps them), else the error itself."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _expected() -> list[tuple[type[Exception], ExitCode]]:
    # ruff: noqa: PLC0415 - imported when something went wrong: `factoryd --help` must not wait for the database's driver
    from config.loading import ConfigError
    from factoryd.embedded.directory import EmbeddedServiceError
    from simulator.recording import RecordingError
    from storage.backup_answers import BackupError
    from storage.maintenance import SchemaError
    from storage.refusals import Conflict, InvalidInput, NotFound

    return [
        (ConfigError, ExitCode.CONFIG),
        (InvalidInput, ExitCode.USAGE),
        (RecordingError, ExitCode.FAILED),
        (NotFound, ExitCode.FAILED),
        (Conflict, ExitCode.FAILED),
        (SchemaError, ExitCode.FAILED),
        (BackupError, ExitCode.FAILED),
        (EmbeddedServiceError, ExitCode.UNAVAILABLE),
        (ConnectionError, ExitCode.UNAVAILABLE),
        (OSError, ExitCode.FAILED),  # a file that cannot be written, a port that is taken
    ]
