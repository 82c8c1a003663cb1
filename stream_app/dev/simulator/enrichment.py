"""Runs a row after the webhook has answered.

Its columns run one after the other, and each is charged when it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from attrs import define, field

from stream_app.dev.simulator.callbacks import fill, placeholders
from stream_app.dev.simulator.chance import Chance, Timeline
from stream_app.dev.simulator.kept import RowProgress
from stream_app.dev.simulator.ledger import ChargeLine, Ledger, RefundLine, RowLine
from stream_app.dev.simulator.script import PaidColumn
from stream_app.dev.simulator.world import TableRow, World, cells_of

_RAN = ("done", "errors", "deduped")


@dataclass(slots=True, eq=False)
class Run:
    """One run of a row's columns.

    `cells` has the payload's fields and the results so far. The columns `paid` were paid for before
    a kill.
    """

    row: TableRow
    number: int
    cells: dict[str, Any]
    columns: list[PaidColumn]
    step_s: float
    paid: Collection[str] = ()
    errors: int = 0


@define(eq=False, repr=False)
class Enrichment:
    """Runs rows.

    `report` is called with the cells of each completed run, and `unpaid` with a row whose workspace
    has too little for its next column.
    """

    _world: World
    _ledger: Ledger
    _chance: Chance
    _timeline: Timeline
    _report: Callable[[TableRow, dict[str, Any], bool], None]
    _unpaid: Callable[[TableRow], None]
    _stopped: bool = field(init=False, default=False)
    running: int = field(init=False, default=0)

    def stop(self) -> None:
        """End every row in progress without a ledger line."""
        self._stopped = True

    def arrive(self, row: TableRow, paid: Collection[str] = ()) -> None:
        """Accept a new row.

        It runs unless auto-run is off or auto-dedupe drops it. `paid`: as of a `Run`.
        """
        if row.duplicate and row.webhook.settings.dedupe_runs == "before":
            self._end(row, "deduped")
        elif not row.webhook.auto_run:
            self._end(row, "not_run")
        else:
            self.start(row, paid)

    def start(self, row: TableRow, paid: Collection[str] = ()) -> None:
        """Run the columns that have no result yet. `paid`: as of a `Run`."""
        settings = row.webhook.settings
        row.run += 1
        row.state = "running"
        row.reported = False
        self.running += 1
        columns = [column for column in settings.columns if column.name not in row.filled]
        latency_s = self._chance.latency_s(settings.latency, row.about, row.run)
        run = Run(row, row.run, self._cells(row), columns, latency_s / max(1, len(columns)), paid)
        if columns:
            self._next(run)
        else:
            self._later(latency_s, lambda: self._next(run))

    def go_on(self, row: TableRow, progress: RowProgress) -> None:
        """Go on with a row where a killed simulator was.

        What it drew is drawn again, and nothing is paid for twice.
        """
        row.spent = progress.credits
        if progress.state is None:
            self.arrive(row, progress.paid)
            return
        row.run = progress.run
        row.state = progress.state
        if row.run == 0:
            return
        row.reported = progress.is_reported
        cells = self._drawn_again(row, progress.charged)
        if row.state in _RAN and not progress.is_over:
            self._report(row, cells, _has_result(row))
        self._forget(row)

    def report_again(self, row: TableRow) -> bool:
        """Run only the HTTP column of a row that ran, unless a call was answered with a 2xx."""
        if row.state not in _RAN or row.reporting or row.reported:
            return False
        paid = {column.name: 1 for column in row.webhook.settings.columns}
        self._report(row, self._drawn_again(row, paid), _has_result(row))
        self._forget(row)
        return True

    def _drawn_again(self, row: TableRow, charged: Mapping[str, int]) -> dict[str, Any]:
        """Return the cells of a row that ran, with the results of the columns that were charged."""
        run = Run(row, row.run, self._cells(row), list(row.webhook.settings.columns), 0)
        for column in run.columns:
            if (column.credits or column.actions) and not charged.get(column.name):
                break
            self._fill(run, column)
        return run.cells

    def _next(self, run: Run) -> None:
        row = run.row
        if not run.columns:
            self._finish(run)
            return
        column = run.columns.pop(0)
        if column.name not in run.paid:
            if not row.webhook.workspace.pay(column.credits, column.actions):
                self._end(row, "out_of_credits")
                self._unpaid(row)
                return
            row.spent += column.credits
            if column.credits or column.actions:
                charge = ChargeLine(
                    **row.names(),
                    column=column.name,
                    credits=column.credits,
                    actions=column.actions,
                )
                self._ledger.write(charge)
        self._later(run.step_s, lambda: self._settle(run, column))

    def _settle(self, run: Run, column: PaidColumn) -> None:
        if not self._fill(run, column):
            run.errors += 1
            self._refund(run.row, column)
        self._next(run)

    def _fill(self, run: Run, column: PaidColumn) -> bool:
        """Draw the result of a column. Returns False if the column failed."""
        row = run.row
        about = (row.about, run.number, column.name)
        if self._chance.draw("column error", *about) < column.error_share:
            return False
        value = None
        is_missed = self._chance.draw("column miss", *about) < column.miss_share
        if not is_missed and not self._provider_fails(run, column):
            value = _value_of(
                column.values[self._chance.pick(len(column.values), *about)],
                run.cells,
            )
        row.filled[column.name] = value
        run.cells[column.name] = value
        return True

    def _provider_fails(self, run: Run, column: PaidColumn) -> bool:
        row = run.row
        names = (row.webhook.workspace.name, row.webhook.slug, row.about, run.number)
        return any(fault.column == column.name for fault in self._timeline.column_faults(*names))

    def _refund(self, row: TableRow, column: PaidColumn) -> None:
        if column.credits == 0:
            return
        row.webhook.workspace.credits += column.credits
        row.spent -= column.credits
        self._ledger.write(RefundLine(**row.names(), column=column.name, credits=column.credits))

    def _finish(self, run: Run) -> None:
        row = run.row
        is_found = _has_result(row)
        state = "errors" if run.errors else "done"
        self._end(row, "deduped" if row.duplicate else state)
        self._report(row, run.cells, is_found)

    def _end(self, row: TableRow, state: str) -> None:
        self.running -= row.state == "running"
        row.state = state
        filled = sum(value is not None for value in row.filled.values())
        self._ledger.write(
            RowLine(
                **row.names(),
                run=row.run,
                state=state,
                filled=filled,
                delivery_id=row.delivery_id,
            ),
        )
        self._forget(row)

    def _forget(self, row: TableRow) -> None:
        """Drop what a row needs no more once its run has ended."""
        if row.state in ("done", "deduped"):
            row.filled = {}
        if row.state == "deduped":
            row.webhook.rows.pop(row.number, None)

    def _cells(self, row: TableRow) -> dict[str, Any]:
        return (
            _cut(cells_of(msgspec.json.decode(row.body)), self._world.limits.cell_bytes)
            | row.filled
        )

    def _later(self, delay_s: float, then: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, lambda: None if self._stopped else then())


def _has_result(row: TableRow) -> bool:
    return any(value is not None for value in row.filled.values())


def _cut(cells: dict[str, Any], cell_bytes: int) -> dict[str, Any]:
    return {
        name: value.encode()[:cell_bytes].decode(errors="ignore")
        if isinstance(value, str)
        else value
        for name, value in cells.items()
    }


def _value_of(value: str | float | bool, cells: dict[str, Any]) -> object:
    """Return a column's result. A column with an empty input finds nothing."""
    if not isinstance(value, str):
        return value
    if any(cells.get(name) in (None, "") for name in placeholders(value)):
        return None
    return fill(value, cells)
