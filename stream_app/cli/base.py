"""What all commands share: common options, exit codes, and the two ways out: people and machines."""

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
  0    done; the answer is yes
  1    the answer is no: checks failed, rows were refused, topics differ
  2    wrong usage or configuration
  3    queued, but not answered yet; leads still under way (publish --wait)
  4    Kafka does not answer
  5    the gateway does not answer
  6    Kafka refuses us: credentials, certificate, protocol or rights
  130  interrupted (Ctrl-C)"""

T = TypeVar("T")

Run = Callable[[argparse.Namespace], int]
# argparse's own class, whose name it does not export.
Subparsers = Any


def command(subparsers: Subparsers, name: str, run: Run, *, says: str, example: str) -> argparse.ArgumentParser:
    """Declare a command with the options that all have; `says` is one line, `example` what a user would type."""
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
    """The configuration, with the secrets of webhooks (`clay`), callbacks (`gateway`) and the look-up API (`api`).

    Raises SettingsError.
    """
    from stream_app.config import load_settings

    return load_settings(args.config, os.environ, clay=clay, gateway=gateway, api=api)


def on_kafka(settings: Settings, program: str, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in a loop of its own once Kafka is ready for `program`.

    Args:
        settings: The configuration.
        program: A key of `core.rights.rights_of`.
        work: What to run; it is closed unrun where Kafka is not ready.

    Raises:
        KafkaRefused, TopicsError, BrokerUnavailable: As `kafka_ready`, within a moment unless Kafka does not answer.
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
    """A line for a person on stderr: progress, warnings, problems."""
    _write(line, stderr=True)


def tell(line: str) -> None:
    """A line of the answer on stdout, when it is for a person."""
    _write(line, stderr=False)


def tell_json(document: object) -> None:
    """The answer on stdout, when it is for a machine."""
    sys.stdout.write(for_json(json.dumps(document, ensure_ascii=False, indent=2)) + "\n")


def console(*, stderr: bool = False) -> Console:
    """Prints text as it is, in tables, too: a reason or a name that others wrote is no markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _write(line: str, *, stderr: bool) -> None:
    out, text = console(stderr=stderr), for_terminal(line)
    out.print(wrapped(text, out.width) if out.is_terminal else text, soft_wrap=True)
