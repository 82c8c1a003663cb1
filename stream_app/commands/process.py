"""What `worker` and `replay` share: a Faust app as a process that runs until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Coroutine
from typing import Any

from stream_app.commands.base import OK


def add_log_option(parser: argparse.ArgumentParser) -> None:
    """`--log json|console`."""
    parser.add_argument(
        "--log",
        choices=("json", "console"),
        default="console" if sys.stderr.isatty() else "json",
        help="form of the log on stderr (default: console on a terminal, else json)",
    )


def run_process(args: argparse.Namespace, main: Coroutine[Any, Any, None]) -> int:
    """Run it in a loop of its own; what ends it otherwise than by a signal comes out."""
    from stream_app.adapters import log
    from stream_app.adapters.faust_run import run

    log.configure(args.log)
    run(main)
    return OK
