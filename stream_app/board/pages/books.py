"""Books: what came in is the sum of the columns."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

import msgspec

from stream_app.board.read_model.board_query import Money, NotReadable
from stream_app.board.site import Moment, Site
from stream_app.domain.books.columns import COLUMNS, MEANING, meaning_of

ROWS: Final = 50


class BookRow(msgspec.Struct, frozen=True):
    """A workspace: leads by column."""

    workspace: str
    columns: dict[str, int]
    total: int


class BooksPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        columns: Name, meaning and number of leads; of `waiting` the records, None if unknown.
        records: The sum of all columns; None if the waiting records are unknown.
        waiting: Waiting records by topic; None if unknown.
        rows: By workspace.
        after: The last workspace of this page if there are more.
        not_leads: Records that begin with a callback or a command, by status.
        days: The days that are kept.
    """

    columns: list[tuple[str, str, int | None]]
    records: int | None
    waiting: dict[str, int] | None
    rows: list[BookRow]
    after: str
    not_leads: list[tuple[str, int]]
    days: list[Money]
    unreadable: list[NotReadable]

    @property
    def saved(self) -> int:
        """Credits that earlier results saved."""
        return sum(day.saved for day in self.days)

    @property
    def resent(self) -> int:
        """Leads that were sent again although they may have reached Clay."""
        return sum(day.resent for day in self.days)


def books_page(site: Site, moment: Moment, after: str) -> BooksPage:
    """Return the page. `after`: the last workspace of the page before."""
    counts = site.queries.status_counts()
    sums: Counter[str] = Counter()
    not_leads: Counter[str] = Counter()
    rows: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in counts:
        if each.column:
            sums[each.column] += each.records
            rows[each.workspace][each.column] += each.records
        else:
            not_leads[each.status] += each.records
    waiting: dict[str, int] | None = None
    if moment.kafka is not None:
        waiting = {}
        for (topic, _), left in moment.kafka.waiting.items():
            waiting[topic] = waiting.get(topic, 0) + left
    on_kafka = None if waiting is None else sum(waiting.values())
    columns: list[tuple[str, str, int | None]] = [(name, MEANING[name], sums[name]) for name in COLUMNS[:-1]]
    columns.append(("waiting", MEANING["waiting"], on_kafka))
    if sums["unknown"]:
        columns.append(("unknown", meaning_of("unknown"), sums["unknown"]))
    names = [name for name in sorted(rows) if name > after or not after]
    page = [BookRow(name, dict(rows[name]), rows[name].total()) for name in names[:ROWS]]
    return BooksPage(
        columns=columns,
        records=None if on_kafka is None else sums.total() + on_kafka,
        waiting=waiting,
        rows=page,
        after=page[-1].workspace if len(names) > ROWS else "",
        not_leads=not_leads.most_common(),
        days=site.queries.money(),
        unreadable=site.queries.unreadable(),
    )
