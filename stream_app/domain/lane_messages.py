"""The messages about lanes: the view of a lane, operators' commands to it, and the answers.

The rules of the wire format are those of messages.py.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from stream_app.domain.limits.breaker import Outage
from stream_app.domain.limits.budget import MeterName
from stream_app.domain.limits.meters import Estimate, Meter
from stream_app.domain.limits.webhook_quota import Webhook

AS_PROBE: Final = 1
"""The time in `LaneView.turns` of a destination whose next lead goes now, as a probe."""


class Actor(msgspec.Struct, frozen=True):
    """An operator who gave an order, the reason, and the time in epoch ms."""

    who: str
    why: str
    at_ms: int


class Change(msgspec.Struct, frozen=True):
    """A key of a lane's policy that an operator changed at run time, such as `budget.credits_per_day`.

    Attributes:
        was: The value in the configuration at that time. When the configuration has another value, the change ends.
        now: The value in force.
    """

    key: str
    was: int | float | bool | None
    now: int | float | bool | None
    by: Actor


class LaneChange(msgspec.Struct, frozen=True):
    """A change of a lane that is reported once: a stable code and a text."""

    kind: str
    text: str


class PartHold(msgspec.Struct, frozen=True, omit_defaults=True):
    """Some leads of a lane are held while others move.

    Attributes:
        destinations: The destinations whose leads are held.
        until_ms: When it may end, epoch ms; 0 if no time ends it.
        bulk: True if only bulk leads are held.
    """

    destinations: tuple[str, ...]
    holds: str
    text: str
    until_ms: int = 0
    bulk: bool = False


class LaneView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a lane for people and programs, on `leads.lanes`, keyed by workspace. Compacted, written on change.

    Attributes:
        breaker: `closed`, `open` or `half_open`.
        score: The health as a number from 0 to 100.
        rate_per_s: The present rate of the token bucket.
        holds: Why nothing is admitted now, a stable code; '' if the lane moves.
        until_ms: When it may move again, epoch ms.
        credits_spent_day: Repeats the meter `credits_day`, as the next five fields do. Credits are of the present day
            or month and exclude reservations.
        since_ms: Since when it is held, epoch ms.
        lifts: What makes it move again.
        news: The changes since the lane's last record on this topic.
        mode: The mode of the breaker. `open` and `closed` are forced, `shadow` only reports.
        changes: What operators changed at run time.
        meters: `credits_day`, `credits_month`, `actions_day`, `actions_month`.
        estimates: The cost of a lead by destination, learned from callbacks; the configured estimate before that.
        webhooks: By id: submissions so far, and why it is out of use.
        p50_ms: Latency of the last five minutes, as `p95_ms` and `p99_ms`.
        concurrency: How many POSTs may be in flight.
        shadow_breaker: Leads that a shadow breaker admitted and would have held.
        shadow_budget: Leads that a shadow budget admitted and would have held.
        submissions_left: Submissions left, by destination.
        partly: What holds only some of its leads, in addition to `holds`.
        outage: The calls that failed while the circuit breaker is not closed.
        turns: By destination that is held, when its next lead may go, epoch ms; 0 if no time ends the hold, 1 if the
            next lead goes now, as a probe.
    """

    workspace: str
    partition: int
    at_ms: int
    breaker: Literal["closed", "open", "half_open"]
    health: Literal["healthy", "degraded", "unhealthy", "insufficient_data"]
    score: float
    rate_per_s: float
    holds: str = ""
    text: str = ""
    until_ms: int = 0
    credits_spent_day: int = 0
    credits_reserved_day: int = 0
    credits_spent_month: int = 0
    credits_reserved_month: int = 0
    credits_cap_day: int | None = None
    credits_cap_month: int | None = None
    submissions: int = 0
    since_ms: int = 0
    lifts: str = ""
    news: tuple[LaneChange, ...] = ()
    mode: Literal["auto", "open", "closed", "shadow"] = "auto"
    mode_by: Actor | None = None
    paused_by: Actor | None = None
    changes: tuple[Change, ...] = ()
    meters: dict[MeterName, Meter] = {}
    estimates: dict[str, Estimate] = {}
    webhooks: dict[str, Webhook] = {}
    calls: int = 0
    p50_ms: int = 0
    p95_ms: int = 0
    p99_ms: int = 0
    concurrency: int = 0
    shadow_breaker: int = 0
    shadow_budget: int = 0
    submissions_left: dict[str, int] = {}
    partly: tuple[PartHold, ...] = ()
    outage: Outage | None = None
    turns: dict[str, int] = {}


CommandKind = Literal[
    "pause",
    "resume",
    "trip",
    "close",
    "shadow",
    "auto",
    "reset",
    "budget",
    "correct",
    "resolve",
    "rate",
    "quota",
    "reload",
    "cancel_lead",
    "cancel_import",
    "suppress",
    "unsuppress",
    "erase",
]


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator's command to a lane, on `leads.commands`, keyed by workspace, in the workspace's home partition.

    Attributes:
        id: Chosen by the sender. A command that arrives twice, by redelivery or by mistake, is applied once.
        at_ms: When it was submitted, epoch ms. It expires after 24 hours.
        who: The operator, for the audit on `leads.audit`. The answer is written there too.
        why: The reason, for the audit.
        args: By kind. budget: `caps` (by name: a number, null for no limit, "configured"), `shadow`. correct:
            `credits`, `actions`, `period`. resolve: `lead_id`, `destination`, and `credits`, `actions` of a lead that
            is at Clay, or `give_up`. rate: `rate_per_s`, `burst`. quota: `webhook_id`, `use`, `count`. cancel_lead:
            `lead_id`. cancel_import: `import_id`. suppress, unsuppress: `people` (hashes; no workspace, to every
            partition). erase: `lead_id`, `destinations`, `people` (hashes). The others have none.
    """

    id: str
    kind: CommandKind
    workspace: str
    at_ms: int
    who: str
    why: str = ""
    args: dict[str, Any] = {}


class CommandAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of a command, on `leads.audit`, keyed like it: one each, in the transaction that applied it.

    Attributes:
        id: The id of the command, or its place on Kafka if it could not be read.
        applied: False: nothing was changed.
        at_ms: When it was applied or refused, epoch ms.
        asked_at_ms: When it was submitted, epoch ms.
        reason: Why nothing was changed, a stable code.
        text: The outcome in words.
        under_way: Requests to Clay from that partition that started before and still finish.
        people: How many people the suppression list gained or lost in that partition.
    """

    id: str
    applied: bool
    at_ms: int
    partition: int
    kind: str = ""
    workspace: str = ""
    who: str = ""
    why: str = ""
    asked_at_ms: int = 0
    reason: str = ""
    text: str = ""
    under_way: int = 0
    lane: LaneView | None = None
    people: int = 0
