"""Structured logs on stderr: one event a line, JSON or console. Never personal data, a token or a URL of a webhook."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

Format = Literal["json", "console"]
_LEVELS = {
    "aiokafka": logging.CRITICAL,  # its errors are retried or come to us as exceptions, which say it once
    "faust": logging.WARNING,
    "mode": logging.CRITICAL,  # it logs a crash with a traceback beside the line that says what to do
    "aiohttp": logging.WARNING,
    "asyncio": logging.WARNING,
    "uvicorn": logging.ERROR,  # it warns of each request that is none, as often as anybody likes
}


def configure(form: Format, level: int = logging.INFO) -> None:
    """Set up logging for the process. Libraries may warn; below that they only cost time (hazards: DEBUG records)."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.processors.dict_tracebacks, last] if form == "json" else [*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=last, foreign_pre_chain=shared))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    for name, of_library in _LEVELS.items():
        logging.getLogger(name).setLevel(of_library)


Logger = structlog.typing.FilteringBoundLogger


def get(name: str) -> Logger:
    """A logger: `log.info("event_name", key=value)`."""
    logger: Logger = structlog.get_logger(process=name)
    return logger
