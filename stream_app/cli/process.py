"""What `worker`, `replay` and `gateway` share: a process that runs until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Coroutine
from typing import Any

from stream_app.cli.base import OK
from stream_app.domain.errors import BrokerUnavailable


def add_log_option(parser: argparse.ArgumentParser) -> None:
    """Add `--log json|console`."""
    parser.add_argument(
        "--log",
        choices=("json", "console"),
        default="console" if sys.stderr.isatty() else "json",
        help="format of the log on stderr (default: console on a terminal, else json)",
    )


def run_process(args: argparse.Namespace, main: Coroutine[Any, Any, None]) -> int:
    """Run a process in a new event loop until a signal ends it. Errors are raised."""
    from aiokafka.errors import KafkaError

    from stream_app.faust_app.run import run
    from stream_app.kafka.connection import LOOK
    from stream_app.ops import logs as log

    log.configure(args.log)
    try:
        run(main)
    except KafkaError as error:  # Kafka answered at the start, but not a later request
        if not error.retriable:
            raise
        raise BrokerUnavailable(f"Kafka has stopped answering ({error}). {LOOK}") from error
    return OK
