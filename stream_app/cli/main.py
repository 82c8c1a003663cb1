"""The program `stream-app`: parse the command line, run the command, turn errors into lines and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from stream_app import __version__
from stream_app.cli.base import (
    EXIT_CODES,
    INTERRUPTED,
    NO,
    NO_GATEWAY,
    NO_KAFKA,
    REFUSED,
    USAGE,
    add_common_options,
    say,
    tell_json,
)
from stream_app.domain.errors import BrokerUnavailable, GatewayUnavailable, KafkaRefused, SettingsError, StreamAppError

COMMANDS: Final = (
    "demo",
    "sim",
    "topics",
    "publish",
    "worker",
    "replay",
    "gateway",
    "clay-setup",
    "doctor",
    "status",
    "results",
    "lanes",
    "explain",
    "suppress",
    "erase",
    "dlq",
    "books",
    "skip",
    "schemas",
    "completion",
)
"""Modules of stream_app.cli, in the order in which the help shows them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code.
    """
    args = build_parser().parse_args(argv)
    _mute_libraries()
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except StreamAppError as exc:
        return _failed(args, exc)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed it (such as `| head`). Python's flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO
    return code


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with all commands. Nothing slow to import is imported."""
    parser = argparse.ArgumentParser(
        prog="stream-app",
        description="Read leads from Kafka, send each one once to Clay, and publish every step on Kafka.",
        epilog=f"{EXIT_CODES}\n\nexample:\n  stream-app publish leads.csv --workspace acme",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_common_options(parser, defaults=True)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"stream_app.cli.{name.replace('-', '_')}").add(subparsers)
    return parser


def _failed(args: argparse.Namespace, exc: StreamAppError) -> int:
    codes = {
        SettingsError: USAGE,
        BrokerUnavailable: NO_KAFKA,
        GatewayUnavailable: NO_GATEWAY,
        KafkaRefused: REFUSED,
    }
    code = codes.get(type(exc), NO)
    if args.json:
        tell_json({"error": str(exc).split("\n"), "exit_code": code})
    say(str(exc))
    return code


def _mute_libraries() -> None:
    """Turn off aiokafka's log. Commands print these errors themselves, and its DEBUG records cost CPU."""
    import logging

    from stream_app.ops.abandoned import is_not_abandoned

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(is_not_abandoned)
