"""`stream-app books`: proves that every record that came in is accounted for, or names those that are not."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stream_app.commands.base import NO, OK, Subparsers, command, console, say, settings_of, tell, tell_json

if TYPE_CHECKING:
    from stream_app.core.books import Report

_SAY_EVERY_S: Final = 5.0
_NOT_LEADS: Final[dict[str, str]] = {
    "callback_duplicate": "a callback about a lead that already had its answer",
    "callback_unmatched": "a callback about a lead that did not wait for one",
    "erased": "an erasure; the lead itself is in its column",
    "cost_corrected": "an operator said what a lead did cost",
}


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "books",
        run,
        says="Prove that every lead that came in is accounted for, or name those that are not; exit code 1 then.",
        example="stream-app books --config stream_app.toml",
    )
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="how many problems are named; all are counted (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    import asyncio

    import msgspec

    from stream_app.books import read_books

    settings = settings_of(args, clay=False)
    with _progress() as progress:
        report = asyncio.run(read_books(settings, limit=args.limit, progress=progress, say=say))
    if args.json:
        tell_json(msgspec.to_builtins(report))
    else:
        show(report)
    return OK if report.balanced else NO


def show(report: Report) -> None:
    """The books for people: the table on stdout, what does not add up on stderr."""
    console().print(_table(report), _money(report))
    if report.copies:
        tell(
            f"{report.copies} more records are copies of these that come or came back: replays, deferred leads, strays"
        )
    for status, count in sorted(report.not_leads.items()):
        tell(f"{status}: {count}; {_NOT_LEADS[status]}")
    for workspace, credits_ in sorted(report.saved.items()):
        tell(f"{workspace} saved {credits_} credits: earlier results answered instead of Clay")
    if report.provisional:
        tell(f"{report.provisional} leads were given a provisional result while their lane was held")
    _show_open_costs(report)
    for workspace, count in sorted(report.possible_doubles.items()):
        tell(f"{workspace} sent {count} times again what may have reached Clay: possible double spends")
    if report.outlived:
        tell(f"{report.outlived} stories have outlived their records, which retention removed: checked, not counted")
    if report.moving:
        tell(f"{report.moving} leads were at work just then and could not be compared with their rows: look again")
    for problem in report.problems:
        say(f"{problem.place}{f' ({problem.lead_id})' if problem.lead_id else ''}: {problem.what}")
    if report.problem_count > len(report.problems):
        say(f"and {report.problem_count - len(report.problems)} more; --limit names more of them")
    accounted = report.accounted
    if report.balanced:
        tell(f"The books balance: {report.records} in, {accounted} accounted for.")
    else:
        say(f"The books do NOT balance: {report.records} in, {accounted} accounted for; see above.")


def _show_open_costs(report: Report) -> None:
    """The leads that were booked at their ceiling for want of a callback, and how to settle them."""
    if not report.open_cost_count:
        return
    tell(
        f"{report.open_cost_count} leads are booked at their ceiling, not known: Clay did not say what they cost. "
        "Where you know it: stream-app lanes correct WORKSPACE --lead ID --credits N --why TEXT"
    )
    for each in report.open_costs:
        booked = f"{each.booked.credits} credits and {each.booked.actions} actions on {each.booked.day}"
        tell(f"  {each.workspace}/{each.destination} {each.lead_id}: {booked}")
    if report.open_cost_count > len(report.open_costs):
        tell(f"  and {report.open_cost_count - len(report.open_costs)} more; --limit names more of them")


def _table(report: Report) -> object:
    from rich.table import Table

    from stream_app.core.columns import COLUMNS, MEANING

    table = Table("", "leads", "of these have a row", "which means", title="The books", title_justify="left")
    for number in (1, 2):
        table.columns[number].justify = "right"
    table.add_row("in", str(report.records), "", "records on leads, leads.retry and leads.bulk", style="bold")
    for name in COLUMNS:
        stand = report.columns[name]
        table.add_row(name.replace("_", " "), str(stand.stories), str(stand.rows), MEANING[name])
    return table


def _money(report: Report) -> object:
    from rich.table import Table

    columns = ["lane", "period", "meter", "reserved", "by its rows", "spent", "by its leads"]
    more = any(account.unknown or account.elsewhere for account in report.accounts)
    table = Table(*columns, *(["not known", "elsewhere"] if more else []), title="Money", title_justify="left")
    for account in report.accounts:
        told = "?" if account.spent_by_events is None else str(account.spent_by_events)
        amounts = [account.reserved, account.reserved_by_rows, account.spent]
        extra = [account.unknown, account.elsewhere] if more else []
        table.add_row(account.workspace, account.period, account.meter, *map(str, amounts), told, *map(str, extra))
    return table


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line now and then, when it takes long."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().show
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("reading the topics", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    def __init__(self) -> None:
        self._said_s = time.monotonic()

    def show(self, done: int, total: int) -> None:
        if time.monotonic() - self._said_s >= _SAY_EVERY_S:
            self._said_s = time.monotonic()
            say(f"{done} of {total} offsets read")
