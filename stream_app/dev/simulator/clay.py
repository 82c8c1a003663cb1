"""The simulated Clay: its parts together, and the operations of an operator or a test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from stream_app.dev.simulator import lines
from stream_app.dev.simulator.callbacks import Callbacks
from stream_app.dev.simulator.chance import Chance
from stream_app.dev.simulator.enrichment import Enrichment
from stream_app.dev.simulator.inbound import Inbound
from stream_app.dev.simulator.ledger import Ledger
from stream_app.dev.simulator.script import Fault, Limits, Plan, Script, ScriptError, Webhook
from stream_app.dev.simulator.timeline import Timeline
from stream_app.dev.simulator.world import WebhookState, WorkspaceState, World

Which = Literal["failed", "all"]
_FAILED = {"errors", "out_of_credits", "not_run"}


class Clay:
    """The simulated Clay. Create it on a running event loop. It logs its operations as `control` lines.

    Methods that name an unknown workspace or webhook raise ScriptError.
    """

    def __init__(self, script: Script, ledger: Ledger) -> None:
        clock = asyncio.get_running_loop().time
        chance = Chance(script.seed)
        self.changed = asyncio.Event()
        self._ledger = ledger
        self._stopping = asyncio.Event()
        self._world = World(script, clock)
        self.timeline = Timeline(script.fault, chance, clock)
        self._callbacks = Callbacks(script, self.timeline, ledger)
        self._enrichment = Enrichment(self._world, ledger, chance, self._callbacks.report)
        self.inbound = Inbound(self._world, self.timeline, ledger, self._enrichment.arrive, self._stopping)

    async def close(self) -> None:
        """End hanging requests, and drop rows and callbacks in progress."""
        self._stopping.set()
        self._enrichment.stop()
        await self._callbacks.close()

    def add_faults(self, faults: Iterable[Fault]) -> None:
        """Add faults; their `at_s` counts from now."""
        now_s = self.timeline.now_s
        added = [msgspec.structs.replace(fault, at_s=now_s + fault.at_s) for fault in faults]
        self.timeline.add(added)
        self._did(f"added faults: {', '.join(fault.kind for fault in added)}")
        self.changed.set()

    def clear_faults(self, kind: str | None = None) -> int:
        """Remove the faults of a kind, or all. Returns how many."""
        count = self.timeline.clear(kind)
        self._did(f"cleared {count} faults")
        self.changed.set()
        return count

    def reset_clock(self) -> None:
        """Start the faults' timeline again."""
        self.timeline.reset_clock()
        self._did("reset the clock")
        self.changed.set()

    @property
    def limits(self) -> Limits:
        return self._world.limits

    def set_limits(self, limits: Limits) -> None:
        self._world.limits = limits
        self._did("set the limits")

    def set_workspace(self, name: str, plan: Plan) -> None:
        """Create a workspace, or give one a new plan with full meters."""
        self._world.set_workspace(name, plan)
        self._did("set the plan", name)

    def set_webhook(self, slug: str, settings: Webhook) -> None:
        """Create a webhook, or replace its settings (a rotated token, another callback)."""
        state = self._world.set_webhook(slug, settings)
        self._did(f"set the webhook {slug}", state.workspace.name)

    def top_up(self, workspace: str, credits_: int) -> None:
        """Add Data Credits. Rows that failed without credits stay failed until they are run again."""
        self._workspace(workspace).credits += credits_
        self._did(f"topped up {credits_} credits", workspace)

    def new_month(self, workspace: str) -> None:
        """Start a new billing month: credits roll over and are added to, Actions start again."""
        state = self._workspace(workspace)
        state.credits += state.plan.credits
        state.actions = state.plan.actions
        self._did("began a new month", workspace)

    def set_auto_run(self, slug: str, *, on: bool) -> None:
        """Turn auto-run on or off. Rows that came while it was off do not start when it is turned on."""
        webhook = self._webhook(slug)
        webhook.auto_run = on
        self._did(f"auto-run {'on' if on else 'off'} for {slug}", webhook.workspace.name)

    def rerun(self, slug: str, which: Which = "failed") -> int:
        """Run rows again: the failed columns of failed rows, or all of every row. Returns the number of rows."""
        webhook = self._webhook(slug)
        rows = [
            row for row in webhook.rows.values() if row.state != "running" and (which == "all" or row.state in _FAILED)
        ]
        self._did(f"ran {len(rows)} rows of {slug} again", webhook.workspace.name)
        for row in rows:
            if which == "all":
                row.filled = {}
            self._enrichment.start(row)
        return len(rows)

    def state(self) -> dict[str, Any]:
        """Return the current state as plain data, without tokens."""
        return {
            "clock_s": round(self.timeline.now_s, 3),
            "seed": self._world.script.seed,
            "limits": self._world.limits,
            "workspaces": {
                name: {"credits": state.credits, "actions": state.actions}
                for name, state in self._world.workspaces.items()
            },
            "webhooks": {
                slug: {
                    "workspace": state.workspace.name,
                    "submissions": state.submissions,
                    "rows": len(state.rows),
                    "auto_run": state.auto_run,
                    "has_token": state.settings.token is not None,
                }
                for slug, state in self._world.webhooks.items()
            },
            "faults": [
                {"active": active, **_without_none(msgspec.structs.asdict(fault))}
                for fault, active in self.timeline.listed()
            ],
            "rows_running": self._enrichment.running,
            "callbacks_pending": self._callbacks.pending,
        }

    def _did(self, what: str, workspace: str | None = None) -> None:
        self._ledger.write(lines.Control(did=what, workspace=workspace))

    def _webhook(self, slug: str) -> WebhookState:
        if slug not in self._world.webhooks:
            raise _unknown("webhook", slug, self._world.webhooks)
        return self._world.webhooks[slug]

    def _workspace(self, name: str) -> WorkspaceState:
        if name not in self._world.workspaces:
            raise _unknown("workspace", name, self._world.workspaces)
        return self._world.workspaces[name]


def _unknown(what: str, name: str, known: Iterable[str]) -> ScriptError:
    return ScriptError([f"{what}: there is no {name!r}; known: {', '.join(known) or 'none'}"])


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
