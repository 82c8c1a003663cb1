"""What all commands share: common options, exit codes, and output as text or JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stream_app.domain.safe_text import for_json, for_terminal
from stream_app.domain.wrap import wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from stream_app.config import Settings

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
QUEUED: Final = 3
NO_KAFKA: Final = 4
NO_GATEWAY: Final = 5
REFUSED: Final = 6
INTERRUPTED: Final = 130

EXIT_CODES: Final = """exit codes:
  0    success
  1    a negative result: checks failed, rows were refused, topics differ
  2    wrong usage or configuration
  3    queued; no worker has answered yet; leads still under way (publish --wait)
  4    Kafka does not answer
  5    the gateway does not answer
  6    Kafka refuses access: credentials, certificate, protocol or rights
  130  interrupted (Ctrl-C)"""

T = TypeVar("T")

Run = Callable[[argparse.Namespace], int]
# argparse does not export the name of this class.
Subparsers = Any


def command(subparsers: Subparsers, name: str, run: Run, *, says: str, example: str) -> argparse.ArgumentParser:
    """Declare a command with the common options.

    Args:
        subparsers: Of the program.
        name: The command's name.
        run: Runs the command and returns its exit code.
        says: One sentence of help.
        example: A command line to try.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=says,
        description=says,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_options(parser)
    parser.set_defaults(run=run)
    return parser


def add_common_options(parser: argparse.ArgumentParser, *, defaults: bool = False) -> None:
    """Add `--config` and `--json`, which stand before or after the command and its action.

    Args:
        parser: The parser of the program, of a command or of an action.
        defaults: Set the defaults. Only the outermost parser does: an inner one would reset what stands before it.
    """
    unset = argparse.SUPPRESS
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=None if defaults else unset,
        help="configuration (default: the file in STREAM_APP_CONFIG, else stream_app.toml)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if defaults else unset,
        help="one JSON document on stdout; the rest on stderr",
    )


def settings_of(args: argparse.Namespace, *, clay: bool, gateway: bool = False, api: bool = False) -> Settings:
    """Load the configuration.

    Args:
        args: The parsed arguments.
        clay: Read the webhooks' secrets.
        gateway: Read the callbacks' secrets.
        api: Read the secrets of the look-up API.

    Raises:
        SettingsError: The configuration is wrong, or a secret is missing.
    """
    from stream_app.config import load_settings

    return load_settings(args.config, os.environ, clay=clay, gateway=gateway, api=api)


def on_kafka(settings: Settings, program: str, work: Coroutine[Any, Any, T]) -> T:
    """Check that Kafka is ready for a program, then run `work` in a new event loop.

    Args:
        settings: The configuration.
        program: A key of `domain.rights.rights_of`.
        work: What to run; closed if Kafka is not ready.

    Raises:
        KafkaRefused, TopicsError, BrokerUnavailable: Kafka is not ready.
    """
    import asyncio

    from stream_app.config.kafka_access import kafka_ready

    async def run() -> T:
        try:
            await kafka_ready(settings, program, say)
        except BaseException:
            work.close()
            raise
        return await work

    return asyncio.run(run())


def say(line: str) -> None:
    """Print a line on stderr: progress, warnings, problems."""
    _write(line, stderr=True)


def tell(line: str) -> None:
    """Print a line of the result on stdout, for people."""
    _write(line, stderr=False)


def tell_json(document: object) -> None:
    """Print the result on stdout as JSON, for programs."""
    sys.stdout.write(for_json(json.dumps(document, ensure_ascii=False, indent=2)) + "\n")


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text literally: text from outside may look like markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _write(line: str, *, stderr: bool) -> None:
    out, text = console(stderr=stderr), for_terminal(line)
    out.print(wrapped(text, out.width) if out.is_terminal else text, soft_wrap=True)
