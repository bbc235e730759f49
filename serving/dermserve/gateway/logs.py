"""JSON lines on stderr, one an event. No bytes are logged: what is neither text nor a number is logged as its type."""

import json
import logging
import sys

import structlog

LEVELS = ("debug", "info", "warning", "error")


def configure_logs(level: str) -> None:
    """Send this process's events of a level of LEVELS and above to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: _ENCODER.encode(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # a line is one write; print makes it two
        cache_logger_on_first_use=True,
    )


def announce(event: str, **facts: object) -> None:
    """Log an event that launchers wait for, whatever the level: it is part of the process's interface."""
    anything = structlog.make_filtering_bound_logger(logging.NOTSET)
    structlog.wrap_logger(structlog.PrintLogger(sys.stderr), wrapper_class=anything).info(event, **facts)


def _shown(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes | bytearray | memoryview) else type(value).__name__


_ENCODER = json.JSONEncoder(default=_shown)  # json.dumps would make one for each line
