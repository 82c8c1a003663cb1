"""`stream-app books`: prove that every input record is accounted for, or name the others."""

import asyncio
from typing import Final

from stream_app.cli.base import COMMON, NO, OK, Common, WholeNumber
from stream_app.cli.options import iso
from stream_app.cli.output import say, show, show_json
from stream_app.cli.status import say_how_far
from stream_app.cli.tables import Column, Table, reading
from stream_app.client.books.read import read_books
from stream_app.client.results.answers import Bill
from stream_app.client.results.lookup import find_bills
from stream_app.domain.books.bill import COMPARE_BY_HAND, UNEXPLAINED
from stream_app.domain.books.money import BooksReport
from stream_app.domain.books.records import books_line, meaning_of, name_of
from stream_app.domain.model.text import count

_NOT_LEADS: Final[dict[str, str]] = {
    "callback_duplicate": "a callback about a lead that already had its answer",
    "callback_unmatched": "a callback about a lead that did not wait for one",
    "erased": "an erasure; the lead itself is in its column",
    "cost_corrected": "an operator entered what a lead cost",
    "without_value": "a run of records without a value, which are no leads and get no dead letter",
}


def books(*, limit: WholeNumber = 20, clay: bool = False, common: Common = COMMON) -> int:
    """Prove that every input lead is accounted for.

    Leads that are not are named, and the exit code is 1.

    With --clay the board is asked whether Clay's bill agrees: what its balance fell by and what was
    booked, by day. It is known where the workspace has an API key. The exit code is 1 if a day has
    a difference that estimates and leads in flight do not explain.

    example:
      stream-app books --config stream_app.toml
      stream-app books --clay

    Args:
        limit: name at most N problems; all are counted
        clay: compare the books with Clay's balance instead
    """
    if clay:
        return _show_bills(common)
    with reading("reading the topics") as progress:
        report = asyncio.run(read_books(common.settings(), limit=limit, progress=progress, say=say))
    if common.json:
        show_json(report)
    else:
        show_report(report)
    return OK if report.balanced else NO


def _show_bills(common: Common) -> int:
    settings = common.settings("api")
    answer = find_bills(settings)
    bills = answer.bills
    common.show(answer, *([bill_table(bills)] if any(bill.days for bill in bills) else []))
    unread = settings.workspaces.keys() - {bill.workspace for bill in bills}
    for bill in bills:
        left = count(bill.credits, "credit")
        common.tell(f"{bill.workspace}: Clay had {left} at {iso(bill.at_ms)}")
        if not bill.days:
            say(f"{bill.workspace}: no two readings of Clay's balance can be compared yet")
    if unread:
        say(f"{', '.join(sorted(unread))}: no reading of Clay's balance. {COMPARE_BY_HAND}")
    say_how_far(answer)
    days = [day for bill in bills for day in bill.days]
    return NO if any(day.verdict in UNEXPLAINED for day in days) else OK


def bill_table(bills: list[Bill]) -> Table:
    """Build the table of what Clay took and what was booked."""
    table = Table(
        Column("workspace"),
        Column("day, UTC"),
        Column("Clay took", right=True),
        Column("booked", right=True),
        Column("drift", right=True),
        Column("explained", rank=2, right=True),
        Column("which means", rank=1, prose=True),
        title="Clay's bill",
    )
    for bill in bills:
        for day in bill.days:
            table.add(
                bill.workspace,
                day.day,
                f"{day.taken:,.10g}",
                f"{day.booked:,}",
                f"{day.drift:+,.10g}",
                f"{day.least:,} to {day.most:,}",
                day.says,
            )
    return table


def show_report(report: BooksReport) -> None:
    """Print the books: the tables on stdout, problems on stderr."""
    books_table(report).show()
    show("")
    money_table(report).show()
    if report.copies:
        show(
            f"{count(report.copies, 'more record is a copy', 'more records are copies')} of these: "
            "sent back, deferred, or moved from a wrong partition",
        )
    for status, events in sorted(report.not_leads.items()):
        show(f"{status}: {events:,}; {_NOT_LEADS[status]}")
    if report.without_value:
        records = count(report.without_value, "record has", "records have")
        show(f"{records} no value on leads and leads.bulk: none of them is counted above")
    if report.batches:
        batches = count(report.batches, "record is a batch", "records are batches")
        show(
            f"{batches} that nobody could decompress, of {count(report.in_batches, 'record')} in "
            "all: stream-app dlq list --reason batch_too_large",
        )
    for workspace, credits_ in sorted(report.saved.items()):
        show(
            f"{workspace} saved {count(credits_, 'credit')}: "
            "earlier results answered instead of Clay",
        )
    if report.provisional:
        leads = count(report.provisional, "lead was", "leads were")
        show(f"{leads} given a provisional result while the lane was held")
    _show_open_costs(report)
    for workspace, times in sorted(report.possible_doubles.items()):
        show(
            f"{workspace} sent {count(times, 'time')} again what may have reached Clay: "
            "possible double spends",
        )
    if report.outlived:
        records = count(report.outlived, "record was", "records were")
        show(f"{records} removed by retention: their events are checked, not counted")
    if report.moving:
        leads = count(report.moving, "lead was", "leads were")
        show(f"{leads} being processed and could not be compared with the rows: run it again")
    for problem in report.problems:
        say(f"{problem.where}{f' ({problem.lead_id})' if problem.lead_id else ''}: {problem.what}")
    if report.problem_count > len(report.problems):
        say(f"and {report.problem_count - len(report.problems)} more; --limit names more of them")
    show(f"{books_line(report.records, report.leads)}.")
    sums = f"{report.records} in, {report.accounted} accounted for"
    if report.balanced:
        show(f"The books balance: {sums}.")
    else:
        say(f"The books do NOT balance: {sums}; see above.")


def _show_open_costs(report: BooksReport) -> None:
    """Show the leads that are booked at their ceiling as no callback came, with the remedy."""
    if not report.open_cost_count:
        return
    guesses = count(report.open_cost_count, "POST is booked at its", "POSTs are booked at their")
    show(
        f"{guesses} ceiling, not known: Clay did not say what the lead cost. Where you know it: "
        "stream-app dlq resolve ID --workspace NAME --at-clay --credits N --why TEXT",
    )
    for cost in report.open_costs:
        amounts = (
            f"{count(cost.booked.credits, 'credit')} and {count(cost.booked.actions, 'action')}"
        )
        show(
            f"  {cost.workspace}/{cost.destination} {cost.lead_id}: {amounts} on {cost.booked.day}",
        )
    if report.open_cost_count > len(report.open_costs):
        show(
            f"  and {report.open_cost_count - len(report.open_costs)} more; "
            "--limit names more of them",
        )


def books_table(report: BooksReport) -> Table:
    """Build the table of what has become of the leads."""
    table = Table(
        Column(""),
        Column("leads", right=True),
        Column("records", rank=3, right=True),
        Column("with a row", rank=2, right=True),
        Column("which means", rank=1, prose=True),
        title="The books",
    )
    table.add("in", report.leads, report.records, "", "on leads, leads.retry and leads.bulk")
    for name, counts in report.columns.items():
        table.add(name_of(name), counts.leads, counts.records, counts.rows, meaning_of(name))
    return table


_EXTRA: Final = {
    "unknown": Column("not known", rank=4, right=True),
    "estimated": Column("estimated", rank=4, right=True),
    "elsewhere": Column("elsewhere", rank=5, right=True),
}
"""Columns of amounts that most lanes have none of, by their field of `LaneAccount`."""


def money_table(report: BooksReport) -> Table:
    """Build the table of reserved and spent amounts: by lane account, by rows, by status events."""
    extra_columns = {
        name: column
        for name, column in _EXTRA.items()
        if any(getattr(account, name) for account in report.accounts)
    }
    table = Table(
        Column("lane"),
        Column("period"),
        Column("meter", rank=1),
        Column("reserved", rank=2, right=True),
        Column("by its rows", rank=6, right=True),
        Column("spent", right=True),
        Column("by its leads", rank=3, right=True),
        *extra_columns.values(),
        title="Money",
    )
    for account in report.accounts:
        by_events = "?" if account.spent_by_events is None else account.spent_by_events
        amounts = [account.reserved, account.reserved_by_rows, account.spent, by_events]
        extra = [getattr(account, name) for name in extra_columns]
        table.add(account.workspace, account.period, account.meter, *amounts, *extra)
    return table
