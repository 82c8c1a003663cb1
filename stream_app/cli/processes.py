"""`stream-app worker`, `gateway`, `board` and `trace`: processes that run until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Any, Literal

from aiokafka.errors import KafkaError

from stream_app.cli.base import COMMON, OK, Common
from stream_app.config import Settings
from stream_app.domain.errors import BrokerUnavailable
from stream_app.kafka.connection import LOOK
from stream_app.ops import logs

LogFormat = Literal["json", "console"]


def worker(*, log: LogFormat | None = None, common: Common = COMMON) -> int:
    """Send leads to Clay. Only workers POST to Clay and write state. Several can run at once.

    example:
      stream-app worker --config stream_app.toml

    Args:
        log: format of the log on stderr (default: console on a terminal, else json)
    """
    from stream_app.services.worker import run_worker

    def read() -> Settings:
        return common.settings("clay")

    return run_process(log, run_worker(read(), read))


def gateway(*, log: LogFormat | None = None, common: Common = COMMON) -> int:
    """Receive Clay's callbacks over HTTP and publish them on Kafka. Several can run at once.

    example:
      stream-app gateway --config stream_app.toml

    Args:
        log: format of the log on stderr (default: console on a terminal, else json)
    """
    from stream_app.services.gateway import run_gateway

    def read() -> Settings:
        return common.settings("gateway")

    return run_process(log, run_gateway(read(), read))


def board(*, log: LogFormat | None = None, common: Common = COMMON) -> int:
    """Serve the board and the look-up API, and take operators' commands. Run one; `stream-app open` opens it.

    example:
      stream-app board --config stream_app.toml

    Args:
        log: format of the log on stderr (default: console on a terminal, else json)
    """
    from stream_app.services.board import run_board

    return run_process(log, run_board(common.settings("board")))


def trace(*, log: LogFormat | None = None, common: Common = COMMON) -> int:
    """Send traces of leads to an OpenTelemetry receiver by OTLP, from the events on leads.status.

    example:
      stream-app trace --config stream_app.toml

    Args:
        log: format of the log on stderr (default: console on a terminal, else json)
    """
    from stream_app.services.trace import run_trace

    return run_process(log, run_trace(common.settings("trace")))


def run_process(log: LogFormat | None, main: Coroutine[Any, Any, None]) -> int:
    """Run a process in a new event loop until a signal ends it. Errors are raised."""
    from stream_app.faust_app.run import run

    logs.configure(log or ("console" if sys.stderr.isatty() else "json"))
    try:
        run(main)
    except KafkaError as error:  # Kafka answered at the start, but not a later request
        if not error.retriable:
            raise
        raise BrokerUnavailable(f"Kafka has stopped answering ({error}). {LOOK}") from error
    return OK
