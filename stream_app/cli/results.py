"""`stream-app results`: write Clay's results as CSV or JSON Lines, optionally joined to the published file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from stream_app.cli.base import NO, OK, Subparsers, command, say, settings_of, tell_json
from stream_app.cli.dead_letter_options import reading, when_ms
from stream_app.cli.files import format_of, private_file
from stream_app.cli.publish import mapping_of
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.results import Export, Joined

_STDOUT = Path("-")


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "results",
        run,
        says="Write the last result of each lead (personal data) as CSV or JSON Lines. Exit code 1 if there is none.",
        example="stream-app results --join leads.csv -o enriched.csv\n"
        "  stream-app results --workspace acme --since 2026-11-24T08:00 --format jsonl",
    )
    parser.add_argument("--workspace", help="only this workspace (with --join: also for rows that name none)")
    parser.add_argument("--destination", metavar="ALIAS", help="only this one (with --join: for rows that name none)")
    parser.add_argument(
        "--since", type=when_ms, default=0, metavar="TIME", help="published at or after, e.g. 2026-11-24T08:00 (UTC)"
    )
    parser.add_argument("--format", choices=("csv", "jsonl"), help="default: by the file's name; stdout is CSV")
    parser.add_argument(
        "--join", type=Path, metavar="INPUT.csv", help="a published CSV: write its readable rows with their results"
    )
    parser.add_argument(
        "--map", action="append", default=[], metavar="FIELD=COLUMN", help="with --join: as passed to `publish`"
    )
    parser.add_argument(
        "--raw", action="store_true", help="leave CSV cells unchanged: without the ' that stops formulas"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=_STDOUT, metavar="FILE", help="output file (default: stdout)"
    )


def run(args: argparse.Namespace) -> int:
    import asyncio

    from stream_app.config import check_known
    from stream_app.domain.errors import SettingsError
    from stream_app.results import Wanted, export

    settings = settings_of(args, clay=False)
    if args.json and args.output == _STDOUT:
        raise SettingsError(["--json reports on the file of -o; to write JSON Lines to stdout, use --format jsonl"])
    check_known(settings, workspace=args.workspace, destination=args.destination)
    wanted = Wanted(args.workspace, args.destination, args.since)
    form = args.format or format_of(args.output)
    with _joined(args) as join, private_file(args.output) as out:
        done = asyncio.run(export(settings, wanted, out, form, join, reading, say, raw=args.raw))
    _report(args, done)
    return OK if done.results else NO


@contextmanager
def _joined(args: argparse.Namespace) -> Iterator[Joined | None]:
    from stream_app.domain.errors import SettingsError
    from stream_app.results import Joined

    if args.join is None:
        if args.map:
            raise SettingsError(["--map needs --join"])
        yield None
        return
    if args.output != _STDOUT and args.output.exists() and args.output.samefile(args.join):
        raise SettingsError([f"{args.output}: is the file of --join; pass another name to -o"])
    try:
        mapping = mapping_of(args.map)
        file: IO[bytes] = args.join.open("rb")
    except ValueError as error:
        raise SettingsError([str(error)]) from None
    except OSError as error:
        raise SettingsError([f"{args.join}: cannot be read: {error.strerror}"]) from None
    with file:
        if not file.seekable():
            raise SettingsError([f"{args.join}: is read twice, so it must be a regular file"])
        yield Joined(str(args.join), file, mapping)


def _report(args: argparse.Namespace, done: Export) -> None:
    import msgspec

    if args.json:
        tell_json(msgspec.to_builtins(done) | {"file": str(args.output)})
        return
    if done.broken_count:
        numbers = ", ".join(map(str, done.broken)) + (" ..." if done.broken_count > len(done.broken) else "")
        say(f"{args.join}: {count(done.broken_count, 'row')} cannot be read and were left out, at the lines {numbers}")
    if done.unreadable:
        say(f"{count(done.unreadable, 'result')} cannot be read by this version, and were left out")
    say(count(done.results, "result") + (f" of {count(done.lines, 'row')}" if args.join else ""))
