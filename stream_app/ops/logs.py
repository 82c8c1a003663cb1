"""Structured logs on stderr: one event a line, JSON or console.

Never personal data, a token or a URL of a webhook.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from stream_app.domain.model.outcome import scrub
from stream_app.tasks import is_not_abandoned

LogFormat = Literal["json", "console"]
_LEVELS = {
    "aiokafka": logging.CRITICAL,  # its errors are retried or raised as exceptions
    "faust": logging.WARNING,
    "mode": logging.CRITICAL,  # it logs a traceback for each crash
    "aiohttp": logging.WARNING,
    "uvicorn": logging.ERROR,  # it warns of each request that is not HTTP
    "asyncio": logging.WARNING,
}
_MAX_FOREIGN_CHARACTERS = 1_000  # characters of a library's log text
_AGAIN_S = 60.0


def configure(form: LogFormat, level: str = "info") -> None:
    """Set up logging for the process.

    Libraries log from WARNING on, also with a lower `level`: their debug records cost CPU for each
    Kafka record.
    """
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
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_not_the_end)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=last, foreign_pre_chain=[*shared, _foreign]),
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel("ERROR" if level == "error" else "WARNING")
    for name, of_library in _LEVELS.items():
        logging.getLogger(name).setLevel(of_library)
    logging.getLogger("asyncio").addFilter(is_not_abandoned)
    sys.excepthook = _crashed


class Throttled:
    """Logs a repeated problem once a minute, and at once if it changes."""

    def __init__(
        self,
        report: Callable[..., object],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._now_s = now_s
        self._last: tuple[str, float] | None = None

    def __call__(self, text: str, same: str = "", **fields: object) -> None:
        """Report the text and fields.

        Problems with an equal `same`, or else text, are one problem.
        """
        now_s = self._now_s()
        problem = same or text
        if self._last is None or self._last[0] != problem or now_s - self._last[1] >= _AGAIN_S:
            self._last = problem, now_s
            self._report(text, **fields)

    def reset(self) -> None:
        """Report success: the next problem is logged at once."""
        self._last = None


def _is_not_the_end(record: logging.LogRecord) -> bool:
    """Drop what mode logs when the app crashes.

    `run_app` raises the error, and the process says it as its last line.
    """
    return "Crashed reason=" not in record.getMessage()


_stacks = ExceptionDictTransformer(show_locals=False)


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """Format a traceback without local variables and with scrubbed texts.

    Both may quote data: the variables, and the texts of exceptions.
    """
    return "\n".join(("Traceback:", *_lines(_stacks(exc_info), "")))


def _lines(stacks: list[dict[str, Any]], indent: str) -> Iterator[str]:
    for stack in reversed(stacks):  # the cause first, as Python does
        for frame in stack["frames"]:
            yield f"{indent}  {frame['filename']}:{frame['lineno']} in {frame['name']}"
        yield f"{indent}{stack['exc_type']}: {scrub(stack['exc_value'])}"
        for inner in stack["exceptions"]:
            yield from _lines(inner, f"{indent}    ")


def _foreign(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Scrub the log texts of libraries: asyncio quotes the exceptions of tasks."""
    if not event["_record"].name.startswith("stream_app."):
        event["event"] = scrub(event["event"], _MAX_FOREIGN_CHARACTERS)
    return event


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception as one event."""
    get("crash").critical("crashed", exc_info=(kind, error, trace))


Logger = structlog.typing.FilteringBoundLogger


def get(name: str) -> Logger:
    """Return a logger: `log.info("event_name", key=value)`."""
    logger: Logger = structlog.get_logger(process=name)
    return logger
