"""The messages on Kafka: lead, status event, result, callback, announcement of a run.

Those of lanes are in domain/views/lane.py.

Wire format: one JSON object per message, UTF-8. Fields are only added, with a default, so that old
messages still decode. Unknown fields are ignored. `schemas/` is generated from these types,
docstrings included. A dead letter is not here: its value is the raw bytes of the record that
failed, and headers hold the rest (domain/delivery/envelope.py).
"""

from typing import Annotated, Final, Literal, get_args

import msgspec

from stream_app.domain.model.numbers import Amount, TimeMs, Whole
from stream_app.domain.model.seen import Seen

Scalar = str | int | float | bool | None
Meter = Literal["credits", "actions"]
"""What a lead may cost: Clay has two meters."""
BOTH_METERS: Final[tuple[Meter, ...]] = get_args(Meter)

Status = Literal[
    "received",
    "rejected_invalid",
    "without_value",
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
    "replaced",
    "confirmed",
    "erased",
    "cost_corrected",
]
"""What an event says about its lead. Those that need an explanation:

`without_value`: records without a value, which are no leads. `refused`: Clay provably did not
accept the lead, another attempt follows. `expired`: `not_after` passed before it was sent.
`rerouted`: it arrived in a partition that is not its workspace's. `cost_corrected`: an operator
entered its cost. `replaced`: a dead letter has ended, because its lead was published again.
`confirmed`: an operator says that Clay has a parked lead, and what it cost.
"""

RESEND: Final = "resend"
RESEND_ORDERED: Final = "resend_ordered"
RESENDS: Final = frozenset({RESEND, RESEND_ORDERED})
"""Reasons of `replayed`: policy or an operator resends a lead that may have reached Clay, a
possible double spend.

Every count of possible double spends goes by these: books, page Money, metric.
"""


class AnsweredColumns(msgspec.Struct, frozen=True, gc=False):
    """What an answer of Clay has of the columns that its destination names in `yield`.

    Attributes:
        filled: Those with a value.
        empty: Those without one.
    """

    filled: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()


RowCount = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # a number of rows


class ImportSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the publisher of an import counted, on the first lead of each workspace.

    Attributes:
        rows: Rows of the file.
        refused: Rows that were refused, and not published.
        leads: Leads of this workspace that are published.
        file: The file's name without its folder.
        who: Who published it.
    """

    rows: RowCount = 0
    refused: RowCount = 0
    leads: RowCount = 0
    file: str = ""
    who: str = ""


class Lead(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A person to enrich, published to `leads` or `leads.bulk`. The record's key is the workspace.

    Attributes:
        fields: What is known of the person. Usual names: email, first_name, last_name, full_name,
            company_name, domain, linkedin_url, title, phone, country. Values are scalars. Other
            names pass through.
        lead_id: The user's own id. Default: derived from the person, so the same person has the
            same id.
        workspace: The Clay workspace. Default: the record's key.
        destination: The alias of a destination in the configuration. Default: the workspace's
            default.
        not_after_ms: The lead is not sent after this time, epoch ms.
        force: Send although the same lead or person was sent before (once per record).
        import_id: The name of the import that the lead belongs to.
        source: Where the lead comes from, for people.
        import_summary: Of the first lead of an import: what its publisher counted.
    """

    fields: dict[str, Scalar]
    lead_id: str | None = None
    workspace: str | None = None
    destination: str | None = None
    not_after_ms: int | None = None
    force: bool = False
    import_id: str | None = None
    source: str | None = None
    import_summary: ImportSummary | None = None


class StatusEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One step in the life of one input record, on `leads.status`, keyed by `lead_id`.

    Read it with read_committed.

    Attributes:
        id: Deterministic: `<origin>#<seq>`. A redelivery repeats no event.
        seq: 1, 2, 3 ... without gaps for one origin.
        at_ms: When, epoch ms.
        origin: `topic/partition/offset` of the input record that the step belongs to.
        attempt: POST attempts that failed so far in this replay.
        replay: Replays in this rewind epoch.
        epoch: The rewind epoch.
        reason: A stable code (`http_429`, `breaker_open`, `same_person`, ...).
        due_at_ms: When the lead continues automatically, if that is known, epoch ms.
        credits: What was booked with this step, in the budget's `day` and `month` of the lead's
            POST. Below 0: the cost was lower than what had been booked.
        app: The version that wrote the event.
        actions: As `credits`, in Actions.
        estimated: Names, not amounts: the meters (`credits`, `actions`) whose cost Clay's answer
            did not say, so that what was booked of them is the destination's estimate.
        estimated_credits: An amount: by how much the part of the booked credits has changed of
            which neither Clay nor an operator has said that the lead cost it: estimates, and the
            ceilings of parked leads. Below 0: a cost that is known now takes the place of such a
            booking.
        estimated_actions: As `estimated_credits`, in Actions.
        saved: The estimated credits that were saved because an earlier result answered the lead.
        parent_id: Of the first event: the span in the `traceparent` of the input record, 16
            hexadecimal digits.
        sampled: Of the first event, and of events with `waited_ms`: true if that `traceparent` says
            so.
        import_id: Of the record's first event in its home partition: the lead's `import_id`, unless
            it has more than 200 characters or may be an e-mail address.
        import_summary: As `import_id`: what the publisher counted. Texts that look like personal
            data are removed.
        waited_ms: The time since the record's previous event in ms, if it is a second or more.
        waited_as: The status of that event.
        dead_letter: As `import_id`: the dead letter that the record is a copy of,
            `topic/partition/offset`.
        queued_ms: Of the first event: how long the record was on Kafka before, in ms, if it is a
            second or more.
        first_offset: The first offset of several records that the event is about: those of a batch
            that is too large once it is decompressed, or those of a run without a value. `origin`
            is the last one.
        last_offset: The last offset of those.
        records: How many those are; 0 if the event is about one. Offsets between them may belong to
            no record.
        seen: Of the test lead of `doctor`: what Clay answered, or called back with, without its
            values.
        filled: Of an answer of Clay (`enriched`, `partial`, `no_data`, `enrich_error`): which of
            the columns that its destination names in `yield` have a value. The values are on
            `leads.enriched` only.
        empty: As `filled`: which of them have none. The two together say what was looked for, so
            that a reader needs no configuration, also after it has changed.
        run: Of `accepted`: the run of a routine that the POST began, as Clay names it. Absent for a
            webhook, and where the id was lost with Clay's answer.
    """

    id: str
    lead_id: str
    status: Status
    seq: Whole
    at_ms: TimeMs
    origin: str
    workspace: str = ""
    destination: str = ""
    attempt: Whole = 0
    replay: Whole = 0
    epoch: Whole = 0
    reason: str = ""
    text: str = ""
    http_status: Whole | None = None
    due_at_ms: TimeMs | None = None
    credits: Amount | None = None
    trace_id: str = ""
    app: str = ""
    actions: Amount | None = None
    day: str = ""
    month: str = ""
    saved: Amount | None = None
    parent_id: str = ""
    sampled: bool = False
    import_id: str = ""
    import_summary: ImportSummary | None = None
    waited_ms: TimeMs = 0
    waited_as: Status | Literal[""] = ""
    dead_letter: str = ""
    queued_ms: TimeMs = 0
    first_offset: Whole | None = None
    last_offset: Whole | None = None
    records: Amount = 0
    seen: Seen | None = None
    filled: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    run: str = ""
    estimated: tuple[Meter, ...] = ()
    estimated_credits: Amount = 0
    estimated_actions: Amount = 0


class FieldOrigin(msgspec.Struct, frozen=True, omit_defaults=True):
    """The origin and age of one field of a result.

    Attributes:
        source: The destination whose table in Clay found it. For a local result: `domain`, `phone`
            or `tld`.
        at_ms: When it was found, epoch ms.
        shared: True if it was found for another person of the same company.
    """

    source: str
    at_ms: TimeMs
    shared: bool = False


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """An enriched lead on `leads.enriched`, keyed by `workspace/destination/lead_id`.

    Compacted: the last one counts.

    Attributes:
        source: `clay`, `cache`, `stale` or `local`.
        version: Grows by one with every result of the same lead.
        at_ms: When it was published, epoch ms.
        age_s: The age of the data in seconds.
        origin: `topic/partition/offset` of the input record.
        partial: True if Clay found some values and not all.
        person: Hash of the person's LinkedIn URL, else e-mail, else name with domain, as the lead
            had them.
        company: Hash of the company's domain.
        provenance: The origin of each field, if the result is not directly from Clay.
        people: Hashes of the person's LinkedIn URL, e-mail, and name with domain, as the lead had
            them; '' for one that it lacked. Absent if `person` is the only hash.
    """

    lead_id: str
    workspace: str
    destination: str
    source: Literal["clay", "cache", "stale", "local"]
    version: Whole
    at_ms: TimeMs
    age_s: Whole
    fields: dict[str, Scalar]
    origin: str = ""
    trace_id: str = ""
    partial: bool = False
    person: str = ""
    company: str = ""
    provenance: dict[str, FieldOrigin] = {}
    people: tuple[str, ...] = ()


class Callback(msgspec.Struct, frozen=True, omit_defaults=True):
    """A callback that the gateway received from Clay for one lead.

    It is on `leads.callbacks`, keyed by workspace. The gateway has verified which lead it is about.
    The worker decides whether it still matters, because it may come twice, days late, or before an
    earlier attempt.

    Attributes:
        at_ms: When it arrived, epoch ms.
        credits: The cost of the lead in credits, if the table reports it.
        id: The same for the same content.
        forced_origin: The input record of a forced lead.
        repaired: True if its JSON was broken and could be repaired.
        text: Why the enrichment failed, scrubbed.
        actions: The cost of the lead in Actions, if the table reports it.
        seen: Of the test lead of `doctor`: the names in the body, and the kinds of their values.
    """

    lead_id: str
    workspace: str
    destination: str
    at_ms: TimeMs
    outcome: Literal["enriched", "partial", "no_data", "enrich_error"]
    fields: dict[str, Scalar]
    credits: Amount | None = None
    attempt: Whole = 1
    id: str = ""
    forced_origin: str = ""
    repaired: bool = False
    text: str = ""
    actions: Amount | None = None
    seen: Seen | None = None


class RunNotification(msgspec.Struct, frozen=True, omit_defaults=True):
    """Clay's completion webhook has announced that a run of a routine has finished.

    It is on `leads.callbacks` beside the callbacks, keyed by workspace. The gateway has verified
    its signature. It names no lead and no result: the worker asks Clay for the results of the run,
    which say whose they are. It may come twice, late, about a run of another program, or never.

    Attributes:
        run: The id of the run, as Clay's answer to the POST that began it named it.
        at_ms: When it arrived, epoch ms.
    """

    workspace: str
    destination: str
    run: str
    at_ms: TimeMs
