"""The messages on Kafka, as types: lead, status event, result, lane, command and its answer, callback.

Wire format: one JSON object a message, UTF-8. Fields are only ever added, with a default, so that old messages still
decode; unknown fields are ignored. `schemas/` is generated from these types. A dead letter is not here: its value is
the raw bytes of the record that failed, and all about it is in headers (domain/dead_letter/headers.py).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from stream_app.domain.lane.budget import MeterName
from stream_app.domain.lane.estimate import Estimate
from stream_app.domain.lane.meters import Meter
from stream_app.domain.lane.outage import Outage
from stream_app.domain.lane.webhook_quota import Webhook

Scalar = str | int | float | bool | None

Status = Literal[
    "received",
    "rejected_invalid",
    "suppressed",
    "duplicate",
    "expired",
    "rerouted",
    "held_budget",
    "held_paused",
    "held_outage",
    "deferred",
    "sending",
    "refused",
    "send_uncertain",
    "accepted",
    "callback_overdue",
    "enriched",
    "partial",
    "no_data",
    "enrich_error",
    "credits_exhausted_suspected",
    "callback_duplicate",
    "callback_unmatched",
    "served_from_cache",
    "served_locally",
    "dead_lettered",
    "replayed",
    "parked",
    "erased",
    "cost_corrected",
]
"""Status words (clay-facts), plus four: `refused` (Clay provably did not take it, another try follows),
`expired` (`not_after` passed before it was sent), `rerouted` (it came in a partition that is not its workspace's),
`cost_corrected` (an operator said what the lead did cost)."""

RESEND: Final = "resend"
"""The reason of `replayed` when the policy sends a lead again that may have reached Clay: a possible double spend."""


class Lead(msgspec.Struct, frozen=True, omit_defaults=True):
    """A person to enrich, as users publish it to `leads` or `leads.bulk`. The record's key is the workspace.

    fields      what is known of the person; usual names: email, first_name, last_name, full_name, company_name, domain,
                linkedin_url, title, phone, country. Values are scalars; names beyond these pass through.
    lead_id     the user's own id; absent: derived from the person, so the same person has the same id.
    workspace   Clay workspace; absent: the record's key.
    destination alias of a destination in the config; absent: the workspace's default.
    not_after_ms  epoch ms after which the lead is not worth paying for.
    force       send although the same lead or person was sent before (once per record).
    import_id   names the batch it came in, for people; `source` says where it came from.
    """

    fields: dict[str, Scalar]
    lead_id: str | None = None
    workspace: str | None = None
    destination: str | None = None
    not_after_ms: int | None = None
    force: bool = False
    import_id: str | None = None
    source: str | None = None


class StatusEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step in the life of one input record, on `leads.status`, keyed by `lead_id`. Read it with read_committed.

    id          deterministic: `<origin>#<seq>`; a redelivery repeats nothing.
    origin      `topic/partition/offset` of the input record that the step belongs to.
    seq         1, 2, 3 ... without gaps for one origin.
    at_ms       epoch ms.
    reason      stable code (`http_429`, `breaker_open`, `same_person`, ...); `text` says it in words.
    attempt     POST attempts that failed so far in this replay; `replay` and `epoch` count replays and rewinds.
    due_at_ms   when the lead goes on by itself, where that is known.
    credits, actions  what was booked with this step, in the budget's `day` and `month` of the lead's POST; less than 0
                where it came to less than had been booked before.
    saved       credits that the lead would have cost at its estimate; it was answered with an earlier result instead.
    """

    id: str
    lead_id: str
    status: Status
    seq: int
    at_ms: int
    origin: str
    workspace: str = ""
    destination: str = ""
    attempt: int = 0
    replay: int = 0
    epoch: int = 0
    reason: str = ""
    text: str = ""
    http_status: int | None = None
    due_at_ms: int | None = None
    credits: int | None = None
    trace_id: str = ""
    app: str = ""
    actions: int | None = None
    day: str = ""
    month: str = ""
    saved: int | None = None


class FieldOrigin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a field of a result comes from, and of when it is (epoch ms).

    source  the destination whose table in Clay found it; of a local result `domain`, `phone` or `tld`.
    shared  it was found for another person of the same company.
    """

    source: str
    at_ms: int
    shared: bool = False


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """An enriched lead on `leads.enriched`, keyed by `workspace/destination/lead_id` (compacted: the last one counts).

    source      `clay`, `cache`, `stale` or `local`; `age_s` is the age of the data in seconds; `version` grows by one
                with every result of the same lead. partial: Clay found something, and not all.
    person      hash of the person's LinkedIn URL, else e-mail, else name with domain, as the lead had them.
    company     hash of the company's domain.
    provenance  of each field, where the result is not straight from Clay.
    people      hashes of the person's LinkedIn URL, e-mail, and name with domain, as the lead had them, '' for what it
                had not; absent where `person` is all that there is.
    """

    lead_id: str
    workspace: str
    destination: str
    source: Literal["clay", "cache", "stale", "local"]
    version: int
    at_ms: int
    age_s: int
    fields: dict[str, Scalar]
    origin: str = ""
    trace_id: str = ""
    partial: bool = False
    person: str = ""
    company: str = ""
    provenance: dict[str, FieldOrigin] = {}
    people: tuple[str, ...] = ()


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose word something is, why, and since when."""

    who: str
    why: str
    at_ms: int


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key of a lane's policy that an operator changed live, as `budget.credits_per_day`.

    was   what the configuration said then: once it says something else, that counts again.
    """

    key: str
    was: int | float | bool | None
    now: int | float | bool | None
    by: Actor


class LaneChange(msgspec.Struct, frozen=True):
    """Something about a lane that is worth telling once: a stable code and words."""

    kind: str
    text: str


class PartHold(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why some leads of a lane are not admitted while others may be: those of `destinations`, `bulk` only if so."""

    destinations: tuple[str, ...]
    holds: str
    text: str
    until_ms: int = 0
    bulk: bool = False


class LaneView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lane's state for people and other programs, on `leads.lanes`, keyed by workspace (compacted), on change.

    breaker     `closed`, `open` or `half_open`; `health` and `score` (0 to 100) of the last five minutes.
    holds       why nothing is admitted now (a code, '' when it moves), `text` in words, `since_ms`, `until_ms` when it
                may go on, and `lifts`: what makes it go on.
    rate_per_s  present rate of the token bucket. Credits are of the present day and month, reservations apart.
    news        what happened since the lane's last record on this topic, each told once.
    mode        of the breaker, `mode_by` if an operator set it: `open` and `closed` are forced, `shadow` only reports.
    paused_by   the operator who paused the lane. changes: what was changed live.
    meters      `credits_day`, `credits_month`, `actions_day`, `actions_month` (the credits_* fields repeat two).
    estimates   what a lead of a destination has come to cost, learned from callbacks; what the config says until then.
    webhooks    by id: submissions so far, and why it is out of use. submissions_left: of each destination's pool.
    calls, p*_ms  of the last five minutes, as `health`. concurrency: POSTs that may be under way at once.
    shadow_*    leads that a shadow breaker or budget let through, and would have held.
    partly      what holds some of its leads only, beside `holds`.
    outage      the calls that have failed, while the circuit breaker is not closed.
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
    """What an operator asks of a lane, on `leads.commands`, keyed by workspace, in the workspace's home partition.

    id      whoever asks makes it up; a command that comes twice, by redelivery or by mistake, is applied once.
    at_ms   when it was asked; after 24 hours it is refused.
    who, why  for the audit on `leads.audit`, where its answer comes, too.
    args    by kind: budget `caps` (by name: a number, null for no limit, "configured"), `shadow`; correct `credits`,
            `actions`, `period`, or of one lead `lead_id`, `credits`, `actions`, `destination`; rate
            `rate_per_s`, `burst`; quota `webhook_id`, `use`, `count`; cancel_lead `lead_id`; cancel_import
            `import_id`; suppress, unsuppress `people` (hashes; no workspace, to every partition); erase `lead_id`,
            `destinations`, `people` (hashes). The others have none.
    """

    id: str
    kind: CommandKind
    workspace: str
    at_ms: int
    who: str
    why: str = ""
    args: dict[str, Any] = {}


class CommandAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a command, on `leads.audit`, keyed like it: one for each, in the transaction that applied it.

    id          the command's; the command's place, where it could not be read.
    applied     False: nothing was changed, `reason` is a stable code for why, `text` says it in words.
    asked_at_ms, at_ms  when it was asked, and when it was applied or refused.
    under_way   requests to Clay of that partition that had begun before, and still end.
    lane        the lane's state after it.
    people      how many the suppression list has more or fewer in that partition.
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


class Callback(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the gateway received from Clay for one lead, on `leads.callbacks`, keyed by workspace.

    Each was proved to be about its lead; whether it still matters is the worker's to say: it may come twice, days late,
    or before an earlier attempt.

    credits, actions  what the lead cost, where the table says so.
    id          the same whenever the same content comes again.
    forced_origin  of a forced lead: the record that it is about.
    repaired    its JSON was broken, and was mended.
    text        why the enrichment failed, scrubbed.
    """

    lead_id: str
    workspace: str
    destination: str
    at_ms: int
    outcome: Literal["enriched", "partial", "no_data", "enrich_error"]
    fields: dict[str, Scalar]
    credits: int | None = None
    attempt: int = 1
    id: str = ""
    forced_origin: str = ""
    repaired: bool = False
    text: str = ""
    actions: int | None = None
