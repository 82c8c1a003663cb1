"""The simulated Clay: its parts together, and its state."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from stream_app.dev.simulator.callbacks import Callbacks
from stream_app.dev.simulator.chance import Chance, Timeline
from stream_app.dev.simulator.enrichment import Enrichment
from stream_app.dev.simulator.inbound import Inbound
from stream_app.dev.simulator.kept import RowFile, RowProgress, progress_of
from stream_app.dev.simulator.ledger import ControlLine, Ledger, RequestLine, RunLine
from stream_app.dev.simulator.routines import PublicApi
from stream_app.dev.simulator.script import Script, ScriptError
from stream_app.dev.simulator.workflow import WorkflowInbound
from stream_app.dev.simulator.world import (
    TableRow,
    WebhookState,
    WorkspaceState,
    World,
    is_submission,
)


class SimulatedClay:
    """The simulated Clay. Create it on a running event loop.

    Attributes:
        changed: Set when the faults on the timeline have changed.
    """

    def __init__(self, script: Script, ledger: Ledger, kept: RowFile | None = None) -> None:
        clock = asyncio.get_running_loop().time
        chance = Chance(script.seed)
        self.changed = asyncio.Event()
        self._ledger = ledger
        self._stopping = asyncio.Event()
        self.world = World(script, clock)
        self.timeline = Timeline(script.fault, chance, clock)
        self._callbacks = Callbacks(self.world, self.timeline, ledger)
        self.enrichment = Enrichment(
            self.world,
            ledger,
            chance,
            self.timeline,
            self._report,
            self._unpaid,
        )
        self.routines = PublicApi(
            self.world,
            self.timeline,
            ledger,
            self.enrichment.arrive,
            self._stopping,
        )
        self.inbound = Inbound(
            self.world,
            self.timeline,
            ledger,
            self.enrichment.arrive,
            self._stopping,
            kept,
        )
        self.workflows = WorkflowInbound(
            self.world,
            self.timeline,
            ledger,
            self.enrichment.arrive,
            self._stopping,
            kept,
        )
        if kept is not None:
            self._go_on(kept)

    def _report(self, row: TableRow, cells: dict[str, Any], is_found: bool) -> None:
        """Give the result of a row to the run that it belongs to, else to its HTTP column."""
        if not self.routines.finish(row, cells):
            self._callbacks.report(row, cells, is_found)

    def _unpaid(self, row: TableRow) -> None:
        self.routines.unpaid(row)

    def _go_on(self, kept: RowFile) -> None:
        """Take up the rows and meters of a simulator that has ended, or was killed."""
        world = self.world
        for name, totals in self._ledger.tally.workspaces().items():
            state = world.workspace(name)
            state.credits = max(0, state.credits - totals.credits_charged + totals.credits_refunded)
            state.actions = max(0, state.actions - totals.actions_charged)
        lines = self._ledger.lines()
        progress = progress_of(lines)
        for line in lines:
            if isinstance(line, RunLine) or not isinstance(line, RequestLine):
                continue
            if webhook := world.webhook(line.webhook):
                webhook.submissions += is_submission(line, world.limits)
        for row in kept.read():
            webhook = world.webhook(row.webhook)
            if webhook is not None:
                taken_up = TableRow(
                    row.number,
                    webhook,
                    row.about,
                    row.body,
                    row.lead_id,
                    row.delivery_id,
                )
                world.add_row(taken_up, msgspec.json.decode(row.body))
                self.enrichment.go_on(taken_up, progress.get(row.number, RowProgress()))

    async def close(self) -> None:
        """End hanging requests, and drop rows and callbacks in progress."""
        self._stopping.set()
        self.enrichment.stop()
        await self._callbacks.close()
        await self.routines.close()

    def state(self) -> dict[str, Any]:
        """Return the current state as plain data, without tokens."""
        return {
            "clock_s": round(self.timeline.now_s, 3),
            "seed": self.world.script.seed,
            "limits": self.world.limits,
            "workspaces": {
                name: {
                    "credits": state.credits,
                    "actions": state.actions,
                    "api_most_a_minute": state.api_most_a_minute,
                }
                for name, state in self.world.workspaces.items()
            },
            "webhooks": {
                slug: {
                    "workspace": state.workspace.name,
                    "submissions": state.submissions,
                    "rows": len(state.rows),
                    "auto_run": state.auto_run,
                    "has_token": state.settings.token is not None,
                }
                for slug, state in self.world.webhooks.items()
            },
            "faults": [
                {"active": active, **_without_none(msgspec.structs.asdict(fault))}
                for fault, active in self.timeline.listed()
            ],
            "rows_running": self.enrichment.running,
            "callbacks_pending": self._callbacks.pending,
            "items_unfinished": self.routines.unfinished,
        }

    def did(self, what: str, workspace: str | None = None) -> None:
        """Log an operation."""
        self._ledger.write(ControlLine(did=what, workspace=workspace))

    def webhook(self, slug: str) -> WebhookState:
        """Return a webhook. Raises ScriptError if it is unknown."""
        if slug not in self.world.webhooks:
            raise _unknown("webhook", slug, self.world.webhooks)
        return self.world.webhooks[slug]

    def workspace(self, name: str) -> WorkspaceState:
        """Return a workspace. Raises ScriptError if it is unknown."""
        if name not in self.world.workspaces:
            raise _unknown("workspace", name, self.world.workspaces)
        return self.world.workspaces[name]


def _unknown(what: str, name: str, known: Iterable[str]) -> ScriptError:
    return ScriptError([f"{what}: there is no {name!r}; known: {', '.join(known) or 'none'}"])


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
