"""`stream-app publish FILE`: leads from a CSV or JSON Lines file, or from stdin, to Kafka."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stream_app.commands.base import NO, OK, Subparsers, command, say, settings_of, tell, tell_json
from stream_app.commands.files import format_of

if TYPE_CHECKING:
    from stream_app.publish import Refusal, Summary
    from stream_app.publish.rows import Row

_REJECTED = ".rejected.jsonl"
_SAID_ROWS = 20


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "publish",
        run,
        says="Publish leads from CSV or JSON Lines. Refused rows go to FILE.rejected.jsonl; exit code 1 then.",
        example='stream-app publish leads.csv --workspace acme --map email="E-Mail" --dry-run',
    )
    parser.add_argument("file", metavar="FILE", help="CSV or .jsonl file, or - for stdin, read to its end")
    parser.add_argument("--format", choices=("csv", "jsonl"), help="default: by the file's name; stdin is JSON Lines")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="which CSV column is which lead field, where its name does not say so; may be repeated",
    )
    parser.add_argument("--workspace", help="for rows that name none (default: the config's only one)")
    parser.add_argument("--destination", help="for rows that name none (default: the workspace's)")
    parser.add_argument("--import-id", help="a name for this batch, for people")
    parser.add_argument("--bulk", action="store_true", help="into leads.bulk: a share of the rate, no hurry")
    parser.add_argument("--force", action="store_true", help="pay again for leads that were sent before")
    parser.add_argument("--dry-run", action="store_true", help="check every row, publish and write nothing")


def run(args: argparse.Namespace) -> int:
    import asyncio

    from stream_app.core.errors import SettingsError
    from stream_app.publish import Wishes, publish_rows

    settings = settings_of(args, clay=False)
    wishes = Wishes(args.workspace, args.destination, args.import_id, args.bulk, args.force)
    with (
        _source(args.file) as source,
        _rejects(args.file, dry_run=args.dry_run) as rejects,
        _progress(source) as on_progress,
    ):
        try:
            rows = _rows(args, source)
        except ValueError as exc:
            raise SettingsError([f"{args.file}: {exc}"]) from None
        work = publish_rows(
            rows,
            settings,
            wishes,
            dry_run=args.dry_run,
            on_refused=rejects.add,
            on_progress=on_progress,
            say=say,
        )
        with _ctrl_c_at_once():
            summary = asyncio.run(work)
    _report(args, summary, rejects)
    return NO if summary.refused else OK


def _rows(args: argparse.Namespace, source: IO[bytes]) -> Iterator[Row]:
    """The file's rows. Raises ValueError for a mapping or a header that cannot be used."""
    from stream_app.publish.rows import read_csv, read_jsonl

    if (args.format or _usual_format(args.file)) == "jsonl":
        if args.map:
            raise ValueError("--map is for CSV")
        return read_jsonl(source)
    return read_csv(source, mapping_of(args.map))


def _usual_format(file: str) -> str:
    return "jsonl" if file == "-" else format_of(Path(file))


def mapping_of(pairs: list[str]) -> dict[str, str]:
    """Lead field -> column, from FIELD=COLUMN. Raises ValueError."""
    split = [pair.partition("=") for pair in pairs]
    if not all(field and column for field, _, column in split):
        raise ValueError('--map needs FIELD=COLUMN, such as --map email="E-Mail"')
    return {field: column for field, _, column in split}


def _report(args: argparse.Namespace, summary: Summary, rejects: _Rejects) -> None:
    where = str(rejects.path) if summary.refused and not args.dry_run else None
    for refusal in rejects.kept:
        say(f"line {refusal.line}: {refusal.reason}: {refusal.text}")
    if args.dry_run and summary.refused > len(rejects.kept):
        say(f"and {summary.refused - len(rejects.kept)} more")
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
                "rejected_file": where,
                "dry_run": args.dry_run,
            }
        )
        return
    for workspace, rows in sorted(summary.workspaces.items()):
        tell(f"{workspace}: {rows} leads")
    for reason, rows in summary.reasons.most_common():
        tell(f"refused, {reason}: {rows}")
    done = f"{summary.ready} would be published" if args.dry_run else f"{summary.published} published"
    tell(f"{summary.rows} rows: {done}, {summary.refused} refused" + (f", see {where}" if where else ""))


@contextmanager
def _source(file: str) -> Iterator[IO[bytes]]:
    from stream_app.core.errors import SettingsError

    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 (closed below; only the opening's errors are translated)
    except OSError as exc:
        raise SettingsError([f"{file}: cannot be read: {exc.strerror}"]) from exc
    with source:
        yield source


class _Rejects:
    """Refused rows as JSON Lines. The file is written when there is one to write, and an older one is removed.

    A dry run touches no file: its first refused rows are `kept`, to be said.
    """

    def __init__(self, path: Path, *, dry_run: bool) -> None:
        self.path = path
        self.kept: list[Refusal] = []
        self._dry_run = dry_run
        self._file: IO[bytes] | None = None
        if not dry_run:
            with self._explained():
                path.unlink(missing_ok=True)

    def add(self, refusal: Refusal) -> None:
        import msgspec

        if self._dry_run:
            if len(self.kept) < _SAID_ROWS:
                self.kept.append(refusal)
            return
        with self._explained():
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.write(msgspec.json.encode(refusal) + b"\n")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from stream_app.core.errors import StreamAppError

        try:
            yield
        except OSError as exc:
            raise StreamAppError(f"{self.path}: refused rows cannot be written: {exc.strerror}") from exc

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def _rejects(file: str, *, dry_run: bool) -> Iterator[_Rejects]:
    rejects = _Rejects(Path(("stdin" if file == "-" else file) + _REJECTED), dry_run=dry_run)
    try:
        yield rejects
    finally:
        rejects.close()


@contextmanager
def _progress(source: IO[bytes]) -> Iterator[Any]:
    from stream_app.commands.progress import RowProgress

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
