"""Structured logs on stderr: one event a line, JSON or console. Never personal data, a token or a URL of a webhook."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from stream_app.domain.delivery.outcome import scrub
from stream_app.domain.errors import StreamAppError

Format = Literal["json", "console"]
_LEVELS = {
    "aiokafka": logging.CRITICAL,  # its errors are retried or come to us as exceptions, which say it once
    "faust": logging.WARNING,
    "mode": logging.CRITICAL,  # it logs a crash with a traceback beside the line that says what to do
    "aiohttp": logging.WARNING,
    "asyncio": logging.WARNING,
}


_MAX_FOREIGN = 1_000  # characters of what a library says
_AGAIN_S = 60.0


def configure(form: Format, level: int = logging.INFO) -> None:
    """Set up logging for the process. Libraries may warn; below that they only cost time (hazards: DEBUG records)."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traceback),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_no_last_line)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=last, foreign_pre_chain=[*shared, _foreign]))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    for name, of_library in _LEVELS.items():
        logging.getLogger(name).setLevel(of_library)
    logging.getLogger("asyncio").addFilter(_is_news)
    sys.excepthook = _crashed


class Throttled:
    """Tells what goes wrong again and again once, and once a minute as long as it does, or when it is something else.

    `tell` is given the text; `now_s` never goes back.
    """

    def __init__(self, tell: Callable[[str], object], now_s: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._now_s = now_s
        self._told: tuple[str, float] | None = None

    def __call__(self, text: str) -> None:
        now_s = self._now_s()
        if self._told is None or self._told[0] != text or now_s - self._told[1] >= _AGAIN_S:
            self._told = text, now_s
            self._tell(text)

    def over(self) -> None:
        """It went well: the next trouble is news."""
        self._told = None


def _is_no_last_line(record: logging.LogRecord) -> bool:
    """mode logs what ends one of our services with a traceback. An error of ours is the process's last line anyway."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, StreamAppError) and "Crashed reason=" in record.getMessage())


def _is_news(record: logging.LogRecord) -> bool:
    """aiokafka forgets a connection when its `bootstrap` is cancelled, and closes it the moment it is forgotten; and
    it shields its commits, so nobody hears how one ended whose caller was cancelled. Its producer keeps futures beside
    those that it hands out, and all of them fail with it.
    """
    said, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
    forgotten = "exception was never retrieved" in said and type(error).__module__ == "aiokafka.errors"
    return not (forgotten or said.startswith("Unclosed AIOKafkaConnection"))


_stacks = ExceptionDictTransformer(show_locals=False)


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """Where, in which order, and what kind. No local variables, and what an exception says is scrubbed: it may quote
    its data, as KeyError does."""
    return "\n".join(("Traceback:", *_lines(_stacks(exc_info), "")))


def _lines(stacks: list[dict[str, Any]], indent: str) -> Iterator[str]:
    for stack in reversed(stacks):  # the cause first, as Python does
        for frame in stack["frames"]:
            yield f"{indent}  {frame['filename']}:{frame['lineno']} in {frame['name']}"
        yield f"{indent}{stack['exc_type']}: {scrub(stack['exc_value'])}"
        for inner in stack["exceptions"]:
            yield from _lines(inner, f"{indent}    ")


def _foreign(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What a library says is scrubbed: asyncio quotes the exception of a task that nobody awaited."""
    if not event["_record"].name.startswith("stream_app."):
        event["event"] = scrub(event["event"], _MAX_FOREIGN)
    return event


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The last words of a process that a bug ends: one line, too."""
    get("crash").critical("crashed", exc_info=(kind, error, trace))


Logger = structlog.typing.FilteringBoundLogger


def get(name: str) -> Logger:
    """A logger: `log.info("event_name", key=value)`."""
    logger: Logger = structlog.get_logger(process=name)
    return logger
