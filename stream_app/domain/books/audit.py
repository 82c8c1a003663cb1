"""Closes the books: compares each history with its record, row and offsets, and each lane with its leads."""

from __future__ import annotations

from typing import Final

from stream_app.domain.books import offset_table
from stream_app.domain.books.accounts import LaneAccount
from stream_app.domain.books.columns import COLUMNS, NOT_LEADS, Column, column
from stream_app.domain.books.histories import CODE, STATUSES, Books, Report, StatusCount
from stream_app.domain.books.offset_table import OffsetPage, OffsetTable
from stream_app.domain.delivery.state_machine import RESUMABLE, SETTLED
from stream_app.domain.messages import Status

_AT_WORK: Final = frozenset(CODE[status] for status in RESUMABLE) | {CODE["sending"]}
"""A worker must hold the record, or the next owner must read it again."""

_AWAY: Final = frozenset({CODE["rerouted"], CODE["deferred"], CODE["dead_lettered"], CODE["send_uncertain"]})
"""A copy of the record must be on its way back."""

_ROWLESS: Final[frozenset[Status]] = frozenset(
    {"duplicate", "rejected_invalid", "rerouted", "expired", "suppressed", "served_locally"}
)
"""Ended without a row, or with a row that another record of the lead may have taken over."""

_NOT_LEADS: Final = frozenset(CODE[status] for status in NOT_LEADS)
_SETTLED: Final = frozenset(CODE[status] for status in SETTLED)
_NEEDS_ROW: Final = frozenset(code for status, code in CODE.items() if status not in _ROWLESS)
_PARKED: Final = CODE["parked"]
_REROUTED: Final = CODE["rerouted"]


def audit(books: Books, now_ms: int) -> Report:
    """Return the report with everything that does not add up. `books` must be complete."""
    return _Audit(books, now_ms).run()


class _Audit:
    def __init__(self, books: Books, now_ms: int) -> None:
        self._books = books
        self._stale_ms = now_ms - books.terms.freshness_ms
        self._inexact = {number for number, state in books.partitions.items() if not state.exact}
        self._trimmed = any(not state.kept for state in books.partitions.values())
        self._columns: dict[Column, StatusCount] = {name: StatusCount() for name in COLUMNS}
        self._by_status: dict[Status, StatusCount] = {}
        self._outlived = 0
        self._moving = 0
        self._not_leads: dict[Status, int] = {}

    def run(self) -> Report:
        books = self._books
        for here in books.tables:
            for offset, page, i in here.entries():
                self._entry(here, offset, page, i)
        accounts = [account for number in sorted(books.partitions) for account in self._lanes(number)]
        open_costs = [each for number in sorted(books.open_costs) for each in books.open_costs[number]]
        accounted = sum(count.records for count in self._columns.values())
        return Report(
            balanced=books.problems.count == 0 and accounted == books.records,
            records=books.records,
            accounted=accounted,
            columns=self._columns,
            statuses={status: self._by_status[status] for status in STATUSES if status in self._by_status},
            copies=books.copies,
            events=books.events,
            outlived=self._outlived,
            moving=self._moving,
            accounts=accounts,
            problems=books.problems.named,
            problem_count=books.problems.count,
            not_leads=self._not_leads,
            saved=books.saved,
            provisional=books.provisional,
            possible_doubles=books.possible_doubles,
            open_costs=open_costs[: books.problems.limit],
            open_cost_count=len(open_costs),
        )

    def _lanes(self, number: int) -> list[LaneAccount]:
        books, state = self._books, self._books.partitions[number]
        known_from_ms = None if not state.exact else 0 if state.kept else state.first_ms
        return books.accounts.lanes(
            books.lane_rows[number],
            books.reservations[number],
            books.open_costs[number],
            known_from_ms,
            books.problems.add,
        )

    # ---------------------------------------------------------------------------------------------- one history

    def _entry(self, here: OffsetTable, offset: int, page: OffsetPage, i: int) -> None:
        flags = page.flags[i]
        code = page.status[i] or (_REROUTED if flags & offset_table.REROUTED else 0)
        gone = here.begin is not None and offset < here.begin
        if code in _NOT_LEADS and not flags & offset_table.IN:
            status = STATUSES[code - 1]
            self._not_leads[status] = self._not_leads.get(status, 0) + 1
            return
        if flags & offset_table.IN:
            self._count(page, i, code, flags)
        elif code:
            self._outlived += gone
        wrong = self._wrong(here, page, i, code, gone)
        if wrong and not flags & offset_table.NAMED:
            self._books.problems.add(f"{here.name}/{offset}", wrong)

    def _count(self, page: OffsetPage, i: int, code: int, flags: int) -> None:
        if code:
            status = STATUSES[code - 1]
            same = bool(flags & offset_table.ROW) and page.row_status[i] == code
            name = column(status, final=bool(flags & offset_table.FINAL))
            counts = [self._by_status.setdefault(status, StatusCount()), *([self._columns[name]] if name else [])]
            for count in counts:
                count.records += 1
                count.rows += same
        elif not flags & offset_table.PASSED:
            self._columns["waiting"].records += 1

    def _wrong(self, here: OffsetTable, page: OffsetPage, i: int, code: int, gone: bool) -> str:
        """Return what does not add up; '' if everything does."""
        flags = page.flags[i]
        if not flags & offset_table.IN and not gone:
            if not code:
                return (
                    "" if not flags & offset_table.ROW else "a row tells of it, but no record of a lead topic is there"
                )
            return "a history without a record: its origin is no input record of a lead topic"
        if not code and flags & offset_table.IN and flags & offset_table.PASSED:
            hint = "; events that retention has removed may tell of it" if self._trimmed else ""
            return f"lost: the worker's group has passed it, and nothing was told of it{hint}"
        in_hand = bool(flags & offset_table.COPY) or (bool(flags & offset_table.IN) and not flags & offset_table.PASSED)
        if flags & offset_table.HEADLESS and not flags & offset_table.REROUTED and not self._trimmed:
            if in_hand:
                self._moving += 1
                return ""
            return "its first event is missing"
        if code in _AT_WORK and not in_hand:
            return f"left at {STATUSES[code - 1]}: its group has passed the record, and nobody goes on with it"
        if code in _AWAY and not in_hand:
            return f"left at {STATUSES[code - 1]}: no copy of it is on its way back"
        return self._against_row(here, page, i, code)

    def _against_row(self, here: OffsetTable, page: OffsetPage, i: int, code: int) -> str:
        flags = page.flags[i]
        if flags & offset_table.ROW:
            if page.row_status[i] == code and page.row_seq[i] == page.seq[i]:
                return ""
            told = f"{STATUSES[code - 1]} (event {page.seq[i]})" if code else "nothing"
            wrong = f"its row says {STATUSES[page.row_status[i] - 1]} (event {page.row_seq[i]}), its events {told}"
        elif code not in _NEEDS_ROW or (code == _PARKED and flags & offset_table.REROUTED and page.seq[i] == 2):
            return ""
        elif code in _SETTLED and (not self._open(code, flags)):
            if page.at_ms[i] < self._stale_ms:
                return ""
            wrong = f"{STATUSES[code - 1]}, and its row is gone before the freshness window: it could be paid twice"
        else:
            wrong = f"{STATUSES[code - 1]}, but it has no row"
        if here.partition in self._inexact or (self._inexact and flags & offset_table.REROUTED):
            self._moving += 1
            return ""
        return wrong

    def _open(self, code: int, flags: int) -> bool:
        return STATUSES[code - 1] == "accepted" and not flags & offset_table.FINAL
