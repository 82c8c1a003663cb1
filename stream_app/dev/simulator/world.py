"""The simulator's state: workspaces with their meters and rate, webhooks with their rows."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stream_app.dev.simulator.chance import digest
from stream_app.dev.simulator.ledger import RequestLine
from stream_app.dev.simulator.script import (
    ClayLimits,
    ClayPlan,
    ClayTable,
    CompletionWebhook,
    Script,
    ScriptWebhook,
    workspace_of,
)

MAX_DEDUPE_CHARACTERS = 200
_MINUTE_S = 60.0


class Submission(msgspec.Struct):
    """A payload that becomes a row: its JSON, its fields, and the two echo fields."""

    body: bytes
    cells: dict[str, Any]
    lead_id: str | None
    delivery_id: str | None


def cells_of(content: Any) -> dict[str, Any]:
    """Return the cells of a payload. An array is the data of one row, and fills none by name."""
    return content if isinstance(content, dict) else {}


def is_submission(line: RequestLine, limits: ClayLimits) -> bool:
    """True if a request counts for the lifetime of its webhook."""
    return line.accepted > 0 or line.fault == "table_full" or limits.refused_count


@dataclass(slots=True)
class WorkspaceState:
    """Two meters and one rate, shared by all webhooks of the workspace.

    `api_most_a_minute` is the most requests to the Public API in any 60 seconds, refused ones too.
    """

    name: str
    plan: ClayPlan
    credits: int
    actions: int
    tokens: float
    refilled_at_s: float
    outward_free_at_s: float = 0.0
    api_tokens: float = 0.0
    api_refilled_at_s: float = float("-inf")
    api_most_a_minute: int = 0
    _api_asked_at_s: deque[float] = field(default_factory=deque)

    def take(self, limits: ClayLimits, now_s: float) -> bool:
        """True if the rate allows a request now."""
        if limits.rate_per_s == 0:
            return True
        refill = (now_s - self.refilled_at_s) * limits.rate_per_s
        self.tokens = min(limits.burst, self.tokens + refill)
        self.refilled_at_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def count_api(self, now_s: float) -> None:
        """Count a request to the Public API, whatever becomes of it."""
        asked = self._api_asked_at_s
        asked.append(now_s)
        while asked[0] <= now_s - _MINUTE_S:
            asked.popleft()
        self.api_most_a_minute = max(self.api_most_a_minute, len(asked))

    def take_api(self, limits: ClayLimits, now_s: float) -> bool:
        """True if the rate of the Public API allows a request now."""
        if limits.api_per_minute == 0:
            return True
        refill = (now_s - self.api_refilled_at_s) * limits.api_per_minute / 60
        self.api_tokens = min(limits.api_burst, self.api_tokens + refill)
        self.api_refilled_at_s = now_s
        if self.api_tokens < 1:
            return False
        self.api_tokens -= 1
        return True

    def outward_in_s(self, limits: ClayLimits, now_s: float) -> float:
        """Return in how many seconds the next call outward may go, and take its turn."""
        if limits.outward_per_s == 0:
            return 0.0
        turn_s = max(now_s, self.outward_free_at_s)
        self.outward_free_at_s = turn_s + 1 / limits.outward_per_s
        return turn_s - now_s

    def pay(self, credits_: int, actions: int) -> bool:
        """Charge both meters, or neither if one of them has too little."""
        if credits_ > self.credits or actions > self.actions:
            return False
        self.credits -= credits_
        self.actions -= actions
        return True


@dataclass(slots=True, eq=False)
class TableRow:
    """One row of a table.

    `about` identifies it for the seed: the lead and its repetition, not its time. `reporting` is
    true while its HTTP column runs, and `reported` once a call of that was answered with a 2xx.
    """

    number: int
    webhook: WebhookState
    about: str
    body: bytes
    lead_id: str | None
    delivery_id: str | None
    duplicate: bool = False
    run: int = 0
    state: str = "not_run"
    spent: int = 0
    reporting: bool = False
    reported: bool = False
    filled: dict[str, Any] = field(default_factory=dict)

    def names(self) -> dict[str, Any]:
        """Return what names the row in each line of the ledger about it."""
        workspace = self.webhook.workspace.name
        return {
            "workspace": workspace,
            "webhook": self.webhook.slug,
            "row": self.number,
            "lead_id": self.lead_id,
        }


@dataclass(slots=True, eq=False)
class WebhookState:
    """A webhook and its table, or a routine.

    `submissions` only grows, because the lifetime limit of a webhook counts it.
    """

    slug: str
    settings: ClayTable
    workspace: WorkspaceState
    auto_run: bool
    submissions: int = 0
    rows: OrderedDict[int, TableRow] = field(default_factory=OrderedDict)
    _seen: set[int] = field(default_factory=set)

    def seen_before(self, cells: dict[str, Any]) -> bool:
        """Auto-dedupe: an exact match on one column.

        Blanks and values over 200 characters never match.
        """
        value = cells.get(self.settings.dedupe_on or "")
        if value is None or value == "" or len(str(value)) > MAX_DEDUPE_CHARACTERS:
            return False
        key = digest(str(value).encode("utf-8", "surrogatepass"))
        if key in self._seen:
            return True
        self._seen.add(key)
        return False


class World:
    """All workspaces and webhooks of one simulator. `clock` returns seconds, from any origin."""

    def __init__(self, script: Script, clock: Callable[[], float]) -> None:
        self.script = script
        self.limits = script.limits
        self.workspaces: dict[str, WorkspaceState] = {}
        self.webhooks: dict[str, WebhookState] = {}
        self.routines: dict[str, WebhookState] = {}
        self.completion_webhooks: dict[str, CompletionWebhook] = dict(script.completion_webhooks)
        self._clock = clock
        self._nameless: Counter[int] = Counter()
        self._rows = 0
        for name, plan in script.workspaces.items():
            self.set_workspace(name, plan)
        for slug, webhook in script.webhooks.items():
            self.set_webhook(slug, webhook)
        for name, routine in script.routines.items():
            payer = self.workspace(routine.workspace)
            self.routines[name] = WebhookState(name, routine, payer, routine.auto_run)

    @property
    def now_s(self) -> float:
        return self._clock()

    def workspace(self, name: str) -> WorkspaceState:
        """Return the workspace of that name. A new one gets the script's default plan."""
        return self.workspaces.get(name) or self.set_workspace(name, self.script.plan)

    def set_workspace(self, name: str, plan: ClayPlan) -> WorkspaceState:
        """Create a workspace, or give an existing one a new plan and full meters."""
        state = self.workspaces.get(name)
        if state is None:
            state = WorkspaceState(name, plan, 0, 0, self.limits.burst, self.now_s)
            self.workspaces[name] = state
        state.plan = plan
        state.credits = plan.credits
        state.actions = plan.actions
        return state

    def webhook(self, slug: str) -> WebhookState | None:
        """Return the webhook, created on first use with `auto_create`; None if there is none."""
        state = self.webhooks.get(slug)
        if state is None and self.script.auto_create:
            table = {
                name: getattr(self.script.table, name)
                for name in self.script.table.__struct_fields__
            }
            return self.set_webhook(slug, ScriptWebhook(**table))
        return state

    def set_webhook(self, slug: str, settings: ScriptWebhook) -> WebhookState:
        """Create a webhook, or replace its settings. Rows and the count of submissions stay."""
        workspace = self.workspace(settings.workspace or workspace_of(slug))
        state = self.webhooks.get(slug)
        if state is None:
            state = WebhookState(slug, settings, workspace, settings.auto_run)
            self.webhooks[slug] = state
        state.settings = settings
        state.workspace = workspace
        state.auto_run = settings.auto_run
        return state

    def occurrence_of(self, nameless: int) -> int:
        """Return how often a payload without a lead id came before, by its digest, and count it."""
        self._nameless[nameless] += 1
        return self._nameless[nameless] - 1

    def new_row(self, webhook: WebhookState, sent: Submission, about: str) -> TableRow:
        """Create the row of a submission."""
        row = TableRow(self._rows + 1, webhook, about, sent.body, sent.lead_id, sent.delivery_id)
        self.add_row(row, sent.cells)
        return row

    def add_row(self, row: TableRow, cells: dict[str, Any]) -> None:
        """Put a row into its table, and say whether the table has its like already.

        Rows come by number.
        """
        webhook = row.webhook
        self._rows = row.number
        row.duplicate = webhook.settings.dedupe_on is not None and webhook.seen_before(cells)
        webhook.rows[row.number] = row
        if len(webhook.rows) > self.script.kept_rows:
            webhook.rows.popitem(last=False)
