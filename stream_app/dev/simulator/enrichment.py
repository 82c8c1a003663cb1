"""Runs a row after the webhook has answered: its columns one after the other, each charged when it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from attrs import define, field

from stream_app.dev.simulator.callbacks import fill, placeholders
from stream_app.dev.simulator.chance import Chance
from stream_app.dev.simulator.ledger import ChargeLine, Ledger, RefundLine, RowLine
from stream_app.dev.simulator.script import Column
from stream_app.dev.simulator.world import Row, World


@dataclass(slots=True, eq=False)
class Run:
    """One run of a row's columns. `cells` has the payload's fields and the results so far."""

    row: Row
    number: int
    cells: dict[str, Any]
    columns: list[Column]
    step_s: float
    errors: int = 0


@define(eq=False, repr=False)
class Enrichment:
    """Runs rows. `report` is called with the cells of each completed run."""

    _world: World
    _ledger: Ledger
    _chance: Chance
    _report: Callable[[Row, dict[str, Any], bool], None]
    _stopped: bool = field(init=False, default=False)
    running: int = field(init=False, default=0)

    def stop(self) -> None:
        """End every row in progress without a ledger line."""
        self._stopped = True

    def arrive(self, row: Row) -> None:
        """Accept a new row. It runs unless auto-run is off or auto-dedupe drops it."""
        if row.duplicate and row.webhook.settings.dedupe_runs == "before":
            self._end(row, "deduped")
        elif not row.webhook.auto_run:
            self._end(row, "not_run")
        else:
            self.start(row)

    def start(self, row: Row) -> None:
        """Run the columns that have no result yet."""
        settings = row.webhook.settings
        row.run += 1
        row.state = "running"
        self.running += 1
        cells = _cut(msgspec.json.decode(row.body), self._world.limits.cell_bytes) | row.filled
        columns = [column for column in settings.columns if column.name not in row.filled]
        latency_s = self._chance.latency_s(settings.latency, row.about, row.run)
        run = Run(row, row.run, cells, columns, latency_s / max(1, len(columns)))
        if columns:
            self._next(run)
        else:
            self._later(latency_s, lambda: self._next(run))

    def _next(self, run: Run) -> None:
        row = run.row
        if not run.columns:
            self._finish(run)
            return
        column = run.columns.pop(0)
        if not row.webhook.workspace.pay(column.credits, column.actions):
            self._end(row, "out_of_credits")
            return
        row.spent += column.credits
        if column.credits or column.actions:
            charge = ChargeLine(**row.names(), column=column.name, credits=column.credits, actions=column.actions)
            self._ledger.write(charge)
        self._later(run.step_s, lambda: self._settle(run, column))

    def _settle(self, run: Run, column: Column) -> None:
        row = run.row
        about = (row.about, run.number, column.name)
        if self._chance.draw("column error", *about) < column.error_share:
            run.errors += 1
            self._refund(row, column)
        else:
            value = None
            if self._chance.draw("column miss", *about) >= column.miss_share:
                value = _value_of(column.values[self._chance.pick(len(column.values), *about)], run.cells)
            row.filled[column.name] = run.cells[column.name] = value
        self._next(run)

    def _refund(self, row: Row, column: Column) -> None:
        if column.credits == 0:
            return
        row.webhook.workspace.credits += column.credits
        row.spent -= column.credits
        self._ledger.write(RefundLine(**row.names(), column=column.name, credits=column.credits))

    def _finish(self, run: Run) -> None:
        row = run.row
        is_found = any(value is not None for value in row.filled.values())
        state = "errors" if run.errors else "done"
        self._end(row, "deduped" if row.duplicate else state)
        self._report(row, run.cells, is_found)

    def _end(self, row: Row, state: str) -> None:
        self.running -= row.state == "running"
        row.state = state
        filled = sum(value is not None for value in row.filled.values())
        self._ledger.write(RowLine(**row.names(), run=row.run, state=state, filled=filled, delivery_id=row.delivery_id))
        if state in ("done", "deduped"):
            row.filled = {}
        if state == "deduped":
            row.webhook.rows.pop(row.number, None)

    def _later(self, delay_s: float, then: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, lambda: None if self._stopped else then())


def _cut(cells: dict[str, Any], cell_bytes: int) -> dict[str, Any]:
    return {
        name: value.encode()[:cell_bytes].decode(errors="ignore") if isinstance(value, str) else value
        for name, value in cells.items()
    }


def _value_of(value: str | float | bool, cells: dict[str, Any]) -> object:
    """Return a column's result. A column with an empty input finds nothing."""
    if not isinstance(value, str):
        return value
    if any(cells.get(name) in (None, "") for name in placeholders(value)):
        return None
    return fill(value, cells)
