"""`stream-app publish FILE`: publish leads from a CSV or JSON Lines file, or from stdin, to Kafka."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stream_app.cli.base import NO, OK, QUEUED, Subparsers, command, say, settings_of, tell, tell_json
from stream_app.cli.files import format_of
from stream_app.cli.publish_files import SAID_ROWS, Rejects, write_ids
from stream_app.cli.publish_wait import DEFAULT_WAIT_S, as_json, program_of, seconds, send_and_wait, show_wait
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.quote import Quote
    from stream_app.publishing import Batch, Summary, Wishes
    from stream_app.publishing.rows import Sheet
    from stream_app.publishing.waiting import PublishedLeads


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "publish",
        run,
        says="Publish leads from CSV or JSON Lines, and say before what that costs. Refused rows go to "
        "FILE.rejected.jsonl; exit code 1 then.",
        example='stream-app publish leads.csv --workspace acme --map email="E-Mail" --dry-run',
    )
    parser.add_argument("file", metavar="FILE", help="CSV or .jsonl file, or - for stdin, read to its end")
    parser.add_argument("--format", choices=("csv", "jsonl"), help="default: by the file's name; stdin is JSON Lines")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="name the CSV column of a lead field; may be repeated",
    )
    parser.add_argument("--workspace", help="for rows that name none (default: the config's only one)")
    parser.add_argument("--destination", help="for rows that name none (default: the workspace's)")
    parser.add_argument("--import-id", help="a name for this batch, for people")
    parser.add_argument("--bulk", action="store_true", help="publish to leads.bulk, which gets a share of the rate")
    parser.add_argument("--force", action="store_true", help="send leads again that were sent before, and pay again")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the id of each published lead with its line; CSV or .jsonl"
    )
    parser.add_argument(
        "--wait",
        nargs="?",
        const=DEFAULT_WAIT_S,
        type=seconds,
        metavar="SECONDS",
        help="wait until all leads are at rest, at most so long (default: 600), and show where they are; exit code 3 "
        "if some are still under way then",
    )
    parser.add_argument("--yes", action="store_true", help="publish without confirmation, at any cost")
    parser.add_argument("--dry-run", action="store_true", help="check every row and show the cost, write nothing")


def run(args: argparse.Namespace) -> int:
    from stream_app.domain.errors import SettingsError
    from stream_app.publishing import Batch, Wishes

    if args.dry_run and args.out:
        raise SettingsError(["--out: a dry run writes nothing; leave one of the two out"])
    if args.dry_run and args.wait is not None:
        raise SettingsError(["--wait: a dry run publishes nothing; leave one of the two out"])
    settings = settings_of(args, clay=False)
    wishes = Wishes(args.workspace, args.destination, args.import_id, args.bulk, args.force)
    with Batch() as batch, _ctrl_c_at_once():
        return _publish(args, settings, wishes, batch)


def _publish(args: argparse.Namespace, settings: Settings, wishes: Wishes, batch: Batch) -> int:
    """Check all rows, show their cost, ask, and publish."""
    import asyncio

    from stream_app.cli.publish_quote import ask, quotes_of, show_columns, show_quotes
    from stream_app.config.kafka_access import kafka_ready
    from stream_app.operator.look import last_views
    from stream_app.publishing import send_batch

    if not args.dry_run:
        asyncio.run(kafka_ready(settings, program_of(args), say))
    sheet, summary, rejects = _check(args, settings, wishes, batch)
    rejects.show()
    quotes = []
    if summary.ready:
        show_columns(settings, sheet.titles, sheet.names, summary)
        quotes = quotes_of(settings, summary, {} if args.dry_run else asyncio.run(last_views(settings)))
        if not args.json:
            show_quotes(quotes)
    leads = None
    if not args.dry_run:
        ask(quotes, yes=args.yes)
        if args.wait is not None:
            leads = asyncio.run(send_and_wait(args, settings, wishes, batch, summary))
        else:
            summary.published = asyncio.run(send_batch(batch, settings, wishes))
            if args.out:
                write_ids(args.out, batch)
    _report(args, summary, sheet, quotes, rejects, leads)
    if summary.refused:
        return NO
    return QUEUED if leads is not None and leads.at_rest < leads.total else OK


def _check(
    args: argparse.Namespace, settings: Settings, wishes: Wishes, batch: Batch
) -> tuple[Sheet, Summary, Rejects]:
    """Check all rows: valid ones go into the batch, refused ones into their file."""
    import asyncio

    from stream_app.domain.errors import SettingsError
    from stream_app.publishing import Ready, check_rows
    from stream_app.publishing.check import Checker

    changed: list[Ready] = []

    def on_ready(lead: Ready) -> None:
        if lead.is_changed and len(changed) < SAID_ROWS:
            changed.append(lead)
        if not args.dry_run:
            batch.add(lead)

    with (
        _source(args.file) as source,
        Rejects(args.file, dry_run=args.dry_run) as rejects,
        _progress(source) as on_progress,
    ):
        try:
            sheet = _sheet(args, source)
        except ValueError as exc:
            raise SettingsError([f"{args.file}: {exc}"]) from None
        checker = Checker(settings, wishes, ids=args.out is not None)
        work = check_rows(sheet.rows, checker, on_ready, on_refused=rejects.add, on_progress=on_progress)
        summary = asyncio.run(work)
    for lead in changed:
        say(f"line {lead.line}: the lead id cannot be used as it stands; the lead has the id {lead.lead_id}")
    if summary.changed > len(changed):
        more = count(summary.changed - len(changed), "more id was", "more ids were")
        say(f"and {more} changed; --out FILE has all of them")
    return sheet, summary, rejects


def _sheet(args: argparse.Namespace, source: IO[bytes]) -> Sheet:
    """The file's rows; JSON Lines have no titles. Raises ValueError for a mapping or a header that cannot be used."""
    from stream_app.publishing.rows import Sheet, open_csv, read_jsonl

    if (args.format or _usual_format(args.file)) == "jsonl":
        if args.map:
            raise ValueError("--map is for CSV")
        return Sheet([], [], read_jsonl(source))
    return open_csv(source, mapping_of(args.map))


def _usual_format(file: str) -> str:
    return "jsonl" if file == "-" else format_of(Path(file))


def mapping_of(pairs: list[str]) -> dict[str, str]:
    """Lead field -> column, from FIELD=COLUMN. Raises ValueError."""
    split = [pair.partition("=") for pair in pairs]
    if not all(field and column for field, _, column in split):
        raise ValueError('--map needs FIELD=COLUMN, such as --map email="E-Mail"')
    return {field: column for field, _, column in split}


def _report(
    args: argparse.Namespace,
    summary: Summary,
    sheet: Sheet,
    quotes: list[Quote],
    rejects: Rejects,
    leads: PublishedLeads | None,
) -> None:
    import msgspec

    where = str(rejects.path) if summary.refused and not args.dry_run else None
    if args.file == "-" and args.format is None and summary.reasons["not_json"] == summary.rows > 0:
        say("no line is JSON: if it is CSV, say --format csv")
    if args.json:
        tell_json(
            {
                "rows": summary.rows,
                "ready": summary.ready,
                "published": summary.published,
                "refused": summary.refused,
                "reasons": dict(summary.reasons),
                "workspaces": dict(summary.workspaces),
                "columns": dict(zip(sheet.titles, sheet.names, strict=True)),
                "ids_changed": summary.changed,
                "quotes": msgspec.to_builtins(quotes),
                "rejected_file": where,
                "ids_file": None if args.out is None else str(args.out),
                "dry_run": args.dry_run,
                "wait": None if leads is None else as_json(leads),
            }
        )
        return
    for reason, rows in summary.reasons.most_common():
        tell(f"refused, {reason}: {rows}")
    if leads is not None:
        show_wait(leads)
    done = f"{summary.ready:,} would be published" if args.dry_run else f"{summary.published:,} published"
    tell(f"{count(summary.rows, 'row')}: {done}, {summary.refused:,} refused" + (f", see {where}" if where else ""))


@contextmanager
def _source(file: str) -> Iterator[IO[bytes]]:
    from stream_app.domain.errors import SettingsError

    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 (closed below; only the opening's errors are translated)
    except OSError as exc:
        raise SettingsError([f"{file}: cannot be read: {exc.strerror}"]) from exc
    with source:
        yield source


@contextmanager
def _progress(source: IO[bytes]) -> Iterator[Any]:
    from stream_app.cli.progress import RowProgress

    with RowProgress(source) as progress:
        yield progress.show


@contextmanager
def _ctrl_c_at_once() -> Iterator[None]:
    """Ctrl-C raises where the program is: asyncio's own handler waits for a turn that a read of stdin never gives."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
