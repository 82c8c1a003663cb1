"""`stream-app`: reads the command line, runs the command, turns errors into lines and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from stream_app.cli.base import EXIT_CODES, INTERRUPTED, NO, NO_GATEWAY, NO_KAFKA, REFUSED, USAGE, say, tell_json
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
)
"""Modules of stream_app.cli, in the order in which the help shows them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `stream-app` with these arguments (default: the process's) and return its exit code."""
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
        # Whoever read our output has left (such as `| head`); Python's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands; importing them imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="stream-app",
        description="Leads go in on Kafka, each reaches Clay once, and every step comes out on Kafka.",
        epilog=f"{EXIT_CODES}\n\nexample:\n  stream-app publish leads.csv --workspace acme",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    """aiokafka logs what we say ourselves, and at DEBUG its records cost more than its work (design section 11)."""
    import logging

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
