"""Logging: one stream of structlog events, JSON unless a person watches; what libraries say joins it.

Events are fixed past-tense words; all that varies is a field. Fields are made safe on the way out (`factoryd.safe_text`).
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config.settings import LogSettings
from factoryd.safe_text import safe_field, safe_traceback

TRACEBACKS = frozenset({"exception", "stack"})
LIBRARY_EVENT = "library_message_logged"

# The pool repeats itself with every attempt; our own code says once that the database is away.
QUIET = {"psycopg": logging.ERROR}


def configure_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sets up structlog and the standard library's logging for the whole process; may be called again.

    Args:
        settings: level and format. Libraries are heard from "warning" up, at level "debug" from "info" up.
        stream: where to; default: standard error.
    """
    target = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[*_common(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    as_json = settings.format == "json" or (settings.format == "auto" and not target.isatty())
    handler.setFormatter(_formatter(structlog.processors.JSONRenderer(ensure_ascii=False) if as_json else _console(target)))
    handler.addFilter(_LibraryFilter(logging.INFO if level == logging.DEBUG else logging.WARNING))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)


def made_safe(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: masks secrets, escapes and cuts texts, in every field at any depth."""
    return {
        name: safe_traceback(str(value)) if name in TRACEBACKS else safe_field(name, value) for name, value in event.items()
    }


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _console(target: TextIO) -> Processor:
    # The plain traceback only: the pretty one prints local variables, and with them passwords.
    return structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _formatter(renderer: Processor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_common(), _as_field],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            made_safe,
            renderer,
        ],
    )


def _as_field(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A library's message is a text of any content: a field."""
    event["text"], event["event"] = event["event"], LIBRARY_EVENT
    return event


class _LibraryFilter(logging.Filter):
    def __init__(self, lowest: int) -> None:
        super().__init__()
        self._lowest = lowest

    def filter(self, record: logging.LogRecord) -> bool:
        """Our own records carry structlog's mark; a library's must be important enough."""
        return hasattr(record, "_logger") or record.levelno >= self._lowest
