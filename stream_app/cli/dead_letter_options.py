"""Options and helpers that the commands over dead letters share."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from stream_app.cli.base import Run, add_common_options, say

if TYPE_CHECKING:
    from stream_app.domain.dead_letter.causes import Filter

SOURCES: Final = ("dlq", "parked", "deferred")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SAY_EVERY_S: Final = 5.0


def add_filter_options(parser: argparse.ArgumentParser, *, nested: bool = False) -> None:
    """Add the options that select dead letters. Each option narrows the selection; repeating one widens it.

    Args:
        parser: The parser of a command or an action.
        nested: The command around this action has the same options; set no defaults here.
    """
    which = parser.add_argument_group("which dead letters (options combine; each may be repeated)")
    which.add_argument("--reason", action="append", default=[], help="such as http_503 or not_json")
    which.add_argument("--status", action="append", default=[], type=int, metavar="CODE", help="Clay's HTTP status")
    which.add_argument("--destination", action="append", default=[], metavar="ALIAS")
    which.add_argument("--workspace", action="append", default=[], metavar="NAME")
    which.add_argument("--lead", action="append", default=[], metavar="LEAD_ID")
    which.add_argument(
        "--disposition",
        action="append",
        default=[],
        choices=("failed", "poison", "policy", "foreign", "deferred"),
        help="poison, policy and foreign dead letters are included only if named here",
    )
    which.add_argument("--since", type=when_ms, metavar="TIME", help="written at or after, e.g. 2026-11-24T08:00 (UTC)")
    which.add_argument("--until", type=when_ms, metavar="TIME", help="written before")
    which.add_argument("--older-than", type=duration_s, metavar="AGE", help="such as 30m, 2h or 7d")
    if nested:
        for option in which._group_actions:  # argparse has no other way to name a group's options
            option.default = argparse.SUPPRESS


def add_action(actions: Any, name: str, run: Run, says: str, example: str) -> argparse.ArgumentParser:
    """Declare an action of a command. The common options stand before or after it."""
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=says,
        description=says,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_options(parser)
    parser.set_defaults(run=run)
    return parser


def confirm(what: str) -> None:
    """Ask the user at the terminal to confirm.

    Raises:
        SettingsError: Standard input is no terminal.
        StreamAppError: The answer is not yes.
    """
    from stream_app.domain.errors import SettingsError, StreamAppError

    if not sys.stdin.isatty():
        raise SettingsError([f"cannot ask for confirmation without a terminal: pass --yes to {what}"])
    say(f"{what}? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise StreamAppError("cancelled: nothing was changed")


def filter_of(args: argparse.Namespace) -> Filter:
    """Build the filter from the options."""
    from stream_app.domain.dead_letter.causes import Filter

    ends = [end for end in (args.until, _ago_ms(args.older_than)) if end is not None]
    return Filter(
        reasons=frozenset(args.reason),
        statuses=frozenset(args.status),
        destinations=frozenset(args.destination),
        workspaces=frozenset(args.workspace),
        leads=frozenset(args.lead),
        kinds=frozenset(args.disposition),
        since_ms=args.since,
        until_ms=min(ends, default=None),
    )


def when_ms(text: str) -> int:
    """Parse an ISO 8601 time to epoch ms. A time without a zone is UTC, as in Kafka's tools."""
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it as in 2026-11-24T08:00") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def duration_s(text: str) -> int:
    """Parse a duration such as 30m to seconds."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age; write it as in 30m, 2h or 7d")
    return int(found[1]) * _UNITS_S[found[2]]


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def iso(at_ms: int) -> str:
    """Format epoch ms for people, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


@contextmanager
def reading(what: str, unit: str = "offsets") -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr: a bar on a terminal, elsewhere a line every few seconds.

    Yields:
        A function of the units done and the units in all.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        said_s = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= _SAY_EVERY_S:
                said_s = time.monotonic()
                say(f"{what}: {done} of {total} {unit}")

        yield show
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _ago_ms(age_s: int | None) -> int | None:
    return None if age_s is None else int((time.time() - age_s) * 1000)
