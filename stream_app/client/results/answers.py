"""The types of the look-up API's answers, for `/openapi.json` and `stream-app status`."""

from collections.abc import Sequence
from typing import Final

import msgspec

from stream_app.domain.books.bill import BilledDay
from stream_app.domain.books.records import COLUMNS, MOVING
from stream_app.domain.model.messages import Meter, Scalar
from stream_app.domain.model.text import amount_text, count, percent
from stream_app.domain.views.explain import Finding
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.waits import RecordWait

NO_ANSWER: Final = "Kafka did not respond: try again"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Part of all answers: how far they are behind Kafka.

    Attributes:
        as_of_ms: Epoch ms. The answer holds everything that was on Kafka then. Null: it has never
            been complete yet.
        lag: Offsets still to be read, at most.
        trouble: Why the read model does not progress, in words; empty if it does.
    """

    as_of_ms: int | None
    lag: int
    trouble: str


class Event(msgspec.Struct, frozen=True):
    """One event of a lead, as on `leads.status`. Times are epoch ms.

    Attributes:
        due_at_ms: When it continues by itself.
        queued_ms: Of the first event: how long the record was on Kafka before; 0 for less than a
            second.
        run: Of `accepted`: the run of a routine that the POST began; '' for a webhook, and where
            Clay's answer was lost.
        estimated: Names, not amounts: the meters (`credits`, `actions`) whose cost Clay's answer
            did not say, so that what was booked of them is the destination's estimate.
    """

    seq: int
    at_ms: int
    status: str
    reason: str
    text: str
    http_status: int | None
    attempt: int
    replay: int
    epoch: int
    due_at_ms: int | None
    credits: int | None
    queued_ms: int = 0
    run: str = ""
    estimated: tuple[Meter, ...] = ()

    @property
    def credits_text(self) -> str:
        """What was booked in words, such as `5 credits, an estimate`; '' if nothing was."""
        if self.credits is None:
            return ""
        guess = ", an estimate" if "credits" in self.estimated else ""
        return f"{count(self.credits, 'credit')}{guess}"


class Step(msgspec.Struct, frozen=True):
    """One event of a history as people read it.

    Attributes:
        gap_ms: Since the event before; None for the first one.
        times: How often it occurred in turn with the steps beside it that have the same number. The
            event is the last.
        since_ms: When it occurred first, epoch ms.
    """

    event: Event
    gap_ms: int | None
    times: int = 1
    since_ms: int = 0


_MAX_CYCLE_EVENTS: Final = 3


def steps(events: Sequence[Event]) -> list[Step]:
    """Return the events of a history.

    Up to three that repeat in turn are shown once, with their number.
    """
    story = list[Step]()
    names = [(event.status, event.reason) for event in events]
    n = 0
    while n < len(events):
        length, times = max(
            ((size, _repeats(names, n, size)) for size in range(1, _MAX_CYCLE_EVENTS + 1)),
            key=lambda cycle: (cycle[0] * cycle[1] if cycle[1] > 1 else 1, -cycle[0]),
        )
        last = n + length * (times - 1)
        for at in range(last, last + length):
            event = events[at]
            gap_ms = events[at].at_ms - events[at - 1].at_ms if at else None
            story.append(Step(event, gap_ms, times, events[at - length * (times - 1)].at_ms))
        n = last + length
    return story


def _repeats(names: Sequence[tuple[str, str]], begin: int, length: int) -> int:
    """Return how often the names from `begin` on occur in turn."""
    times = 1
    while (
        names[begin + times * length : begin + (times + 1) * length]
        == names[begin : begin + length]
    ):
        times += 1
    return times


class RunPolls(msgspec.Struct, frozen=True):
    """The run of a routine that a record waits for, and the polls for its results.

    The polls are those of the schedule: an announcement brings one earlier, and the rate of the
    lane may delay one.

    Attributes:
        id: As Clay names it; '' if its answer to the POST was lost. Then nobody can ask for the
            results, and only an announcement settles the lead.
        polls: How often its results were asked for so far.
        next_ms: When they are asked for next, epoch ms; null without an id.
        waits_for_rate: True if polls of its lane are due that wait for the rate of the lane.
    """

    id: str
    polls: int
    next_ms: int | None
    waits_for_rate: bool = False


class RecordHistory(msgspec.Struct, frozen=True):
    """The history of one consumed record.

    Attributes:
        origin: Its position, `topic/partition/offset`.
        workspace: Empty if no event names it; so is `destination`.
        status: The status of the last event, at `at_ms`.
        column: Where the books count it; '' if it is not a lead's.
        waits: Where its time went. The last one has no end if the record is not at rest.
        run: The run that it waits for; null if it waits for none.
    """

    origin: str
    workspace: str
    destination: str
    status: str
    column: str
    at_ms: int
    trace_id: str
    events: list[Event]
    waits: list[RecordWait]
    run: RunPolls | None = None


class FoundResult(msgspec.Struct, frozen=True):
    """The last result of a lead for one destination.

    Attributes:
        source: `clay`, `cache`, `stale` or `local`.
        version: Grows by one with every result of the lead.
        age_s: Age of the data when it was published, in seconds.
        fields: The data, which is personal.
        problem: Why fields and age are missing, in words; empty if they are not.
    """

    workspace: str
    destination: str
    source: str
    version: int
    at_ms: int
    age_s: int | None
    fields: dict[str, Scalar] | None
    problem: str


class FoundLead(msgspec.Struct, frozen=True):
    """One lead id: its newest histories first (`history_count` in all), and its results."""

    lead_id: str
    histories: list[RecordHistory]
    history_count: int
    results: list[FoundResult]

    @property
    def booked_in_all(self) -> int | None:
        """The credits of all records, if several have some: a correction is a record of its own.

        Otherwise it is None, and also if some records of the lead are not among these.
        """
        sums = [
            [event.credits for event in history.events if event.credits]
            for history in self.histories
        ]
        if self.history_count > len(self.histories) or sum(map(bool, sums)) < 2:
            return None
        return sum(map(sum, sums))


class LeadAnswer(Answer, frozen=True, kw_only=True):
    """`GET /leads/{id}`."""

    lead: FoundLead


class LeadsAnswer(Answer, frozen=True, kw_only=True):
    """`GET /leads?person=`: the leads of a person.

    They are those that count for the person, and those whose id was derived from the person.
    """

    leads: list[FoundLead]


class WaitingLead(msgspec.Struct, frozen=True):
    """A record on a lead topic that no worker has processed yet.

    Attributes:
        origin: Its position, `topic/partition/offset`.
        since_ms: When it was appended, epoch ms.
        ahead: Records before it in its topic and partition, at most.
        findings: What blocks its partition or lane, as `stream-app explain` reports it.
    """

    lead_id: str
    workspace: str
    origin: str
    since_ms: int
    ahead: int
    findings: list[Finding]


class WaitingAnswer(Answer, frozen=True, kw_only=True):
    """`GET /waiting`: the search ends at the first records that match, or after a few seconds.

    Attributes:
        searched: Waiting records that were searched.
        left: Waiting records that were not searched, at most.
        problem: Why the search is not complete, in words; empty if it is.
    """

    leads: list[WaitingLead]
    searched: int
    left: int
    problem: str


class LanesAnswer(Answer, frozen=True, kw_only=True):
    """`GET /lanes`.

    Attributes:
        unreadable: The number of lanes whose state this version cannot read.
    """

    lanes: list[LaneView]
    unreadable: int


class StatusCount(msgspec.Struct, frozen=True):
    """The number of leads with this status.

    Attributes:
        column: Where the books count them; '' if they are no leads.
    """

    workspace: str
    destination: str
    status: str
    column: str
    leads: int


class BooksAnswer(Answer, frozen=True, kw_only=True):
    """`GET /books`: counts of the events that Kafka keeps. `stream-app books` reconciles them.

    Attributes:
        columns: Leads by column. Each lead is counted once, with its status of now.
        status_counts: The same by workspace, destination and status.
        not_leads: By status, the callbacks that settled no lead, and the erasures. No column counts
            them, and their `column` is ''.
        waiting: By topic of producers, the records that no worker has taken. Null: unknown.
        waiting_at_most: True if fewer records may wait than `waiting` says, because very many wait,
            or cannot be read.
    """

    columns: dict[str, int]
    status_counts: list[StatusCount]
    not_leads: dict[str, int]
    waiting: dict[str, int] | None
    waiting_at_most: bool = False


class Yield(msgspec.Struct, frozen=True):
    """How often Clay had a value for a column, and what a value cost.

    Each record that Clay has answered counts once, with its last answer. A forced lead was asked
    for, and paid, once more, so it counts once more. Answers from the cache are no answers of Clay.

    Attributes:
        answered: Answers of Clay.
        filled: Answers with a value in this column.
        credits: All credits that were booked for these records, also for those without a value, and
            for earlier POSTs of them.
        share: `filled` of `answered`, from 0 to 1; null without an answer.
        credits_each: Credits for each value; null without a value.
    """

    answered: int
    filled: int
    credits: int
    share: float | None
    credits_each: float | None

    @property
    def percent(self) -> str:
        """The share for people; '' without an answer.

        It is computed from the counts: from `share`, which is rounded, 82.353 % might be 82.3 %.
        """
        return percent(self.filled / self.answered) if self.answered else ""

    @property
    def price(self) -> str:
        """The credits for each value, for people; '' without a value.

        It is computed from the counts: from `credits_each`, which is rounded, 1.4545 might be 1.4.
        """
        return amount_text(self.credits / self.filled) if self.filled else ""

    @property
    def price_in_credits(self) -> str:
        """The price with its noun, such as `1 credit`; '' without a value."""
        price = self.price
        return price and f"{price} {'credit' if price == '1' else 'credits'}"


def yield_of(answered: int, filled: int, credits_: int) -> Yield:
    """Return the counts with the ratios that follow from them."""
    share = round(filled / answered, 4) if answered else None
    return Yield(answered, filled, credits_, share, round(credits_ / filled, 2) if filled else None)


NO_YIELD: Final = yield_of(0, 0, 0)


class ColumnYield(msgspec.Struct, frozen=True):
    """What Clay has found of one column of a destination.

    Attributes:
        column: The column, as `yield` of the destination names it.
        hour: In the last hour.
        day: In the last day, to the hour: in 23 full hours and the present one.
        before: In the seven days before that day.
    """

    workspace: str
    destination: str
    column: str
    hour: Yield
    day: Yield
    before: Yield


class ImportYield(msgspec.Struct, frozen=True):
    """What Clay has found of one column for the leads of an import until now."""

    destination: str
    column: str
    until_now: Yield


class YieldAnswer(Answer, frozen=True, kw_only=True):
    """`GET /yield`: what Clay finds, by the columns that destinations name in `yield`."""

    yields: list[ColumnYield]


class Bill(msgspec.Struct, frozen=True):
    """Clay's balance of a workspace against the books.

    Attributes:
        at_ms: The last reading of the balance, epoch ms.
        credits: The credits that Clay said were left then.
        days: What Clay took and what was booked, by day, the newest first. Empty until there are
            two readings that can be compared.
    """

    workspace: str
    at_ms: int
    credits: float
    days: list[BilledDay]


class BillAnswer(Answer, frozen=True, kw_only=True):
    """`GET /bill`: whether Clay's bill agrees, of each workspace whose balance was read."""

    bills: list[Bill]


class FoundImport(msgspec.Struct, frozen=True):
    """The leads of one workspace that were published under one import id.

    Attributes:
        first_ms: The first event of its leads, epoch ms.
        last_ms: The last event of its leads, epoch ms.
        file: The name of the published file; '' if it is unknown, as `who`.
        rows: The rows of the file, of all workspaces; null if the publisher has not counted them,
            as `refused` and `published`.
        refused: Rows that were not published.
        published: Rows of this workspace that were to be published when the publication began.
        columns: What has become of its rows. Each lead is in one column; `duplicate` has the leads
            that were sent before, and each further row of a lead. Those that are `waiting` are
            published and not taken by a worker yet.
        credits: What they have cost.
        yields: What Clay has found, by the columns that count.
        repeats: How many of the duplicates are further rows of a lead in this very import.
    """

    import_id: str
    workspace: str
    first_ms: int
    last_ms: int
    who: str
    file: str
    rows: int | None
    refused: int | None
    published: int | None
    columns: dict[str, int]
    credits: int
    yields: list[ImportYield] = []
    repeats: int = 0

    @property
    def records(self) -> int:
        """Rows that were published, as often as they were: leads and duplicates."""
        return sum(self.columns.values())

    @property
    def duplicates(self) -> int:
        """Rows that are not sent, because another record of the same lead counts."""
        return self.columns.get("duplicate", 0)

    @property
    def columns_of_leads(self) -> dict[str, int]:
        """What has become of its leads: `columns` without the duplicates, which are no leads.

        They are in the order of the books. Those of a newer version come last, and a column without
        a lead is left out.
        """
        names = (*COLUMNS, *sorted(self.columns.keys() - set(COLUMNS)))
        leads = {name: self.columns.get(name, 0) for name in names if name != "duplicate"}
        return {name: many for name, many in leads.items() if many}

    @property
    def leads(self) -> int:
        """Rows that are no duplicates."""
        return sum(self.columns_of_leads.values())

    @property
    def has_neighbours(self) -> bool:
        """True if the file also has leads of other workspaces."""
        return self.rows is not None and self.rows > (self.refused or 0) + (self.published or 0)

    @property
    def moving(self) -> int:
        """Leads that are not at rest."""
        return sum(self.columns.get(name, 0) for name in MOVING)

    @property
    def at_rest(self) -> int:
        """Leads that are at rest."""
        return self.leads - self.moving

    @property
    def percent_at_rest(self) -> int:
        """Percent of the leads that are at rest."""
        if not self.leads:
            return 100 if self.duplicates else 0
        return self.at_rest * 100 // self.leads


class ImportsAnswer(Answer, frozen=True, kw_only=True):
    """`GET /imports`: the newest first.

    Attributes:
        more: True if there are older ones.
    """

    imports: list[FoundImport]
    more: bool


class ByState(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters by what has become of them. The four add up to all that are kept.

    Attributes:
        open: Wait for a person.
        coming_back: Are on their way back, or come back by themselves.
        solved: Their leads were delivered, or published again, or have a later dead letter, which
            counts.
        given_up: Their leads are not to be sent any more.
    """

    open: int = 0
    coming_back: int = 0
    solved: int = 0
    given_up: int = 0

    @property
    def written(self) -> int:
        return self.open + self.coming_back + self.solved + self.given_up

    @property
    def can_be_sent(self) -> bool:
        """True if some of them have not ended: a plan to send them back can find these."""
        return self.open + self.coming_back > 0


class Cause(ByState, frozen=True):
    """Dead letters of one cause.

    Attributes:
        kind: `failed`, `poison`, `policy` or `foreign`.
        first_ms: When the first one was appended, in epoch ms.
        last_ms: When the last one was appended, in epoch ms.
    """

    kind: str
    workspace: str
    destination: str
    reason: str
    http_status: str
    first_ms: int = 0
    last_ms: int = 0


class DeadLetters(ByState, frozen=True):
    """The dead letters that one topic keeps.

    `causes` has those with the most open ones, largest first.
    """

    causes: list[Cause]


class DeadLettersAnswer(Answer, frozen=True, kw_only=True):
    """`GET /dlq`: what `leads.dlq` and `leads.parked` keep, by what has become of it."""

    dlq: DeadLetters
    parked: DeadLetters


class Day(msgspec.Struct, frozen=True):
    """The money of a destination of a workspace on a day, UTC, that begins at `at_s`.

    Both are '' for the sum of all.

    Attributes:
        credits: Credits booked with the steps of that day, corrections included.
        saved: Credits saved, because an earlier result answered.
        resent: Leads sent again although they may have reached Clay.
        refused: Leads that a budget held on that day. One that is held on two days counts on both.
        enriched: Leads that are enriched, or partly, since that day. A lead counts on its last day
            only.
        estimated: The part of `credits` of which neither Clay nor an operator has said that a lead
            cost it: estimates, and the ceilings of parked leads. Below 0 on a day on which such
            bookings of earlier days were replaced by known costs.
    """

    workspace: str
    destination: str
    at_s: int
    credits: int
    saved: int
    resent: int
    refused: int
    enriched: int
    estimated: int = 0

    @property
    def reported(self) -> int:
        """The credits of which Clay or an operator has said that a lead cost them."""
        return self.credits - self.estimated

    @property
    def per_lead(self) -> float | None:
        """Credits for each enriched lead; None without one."""
        return self.credits / self.enriched if self.enriched else None


class Account(msgspec.Struct, frozen=True):
    """All that the read model counts. Pages, API and commands show parts of it.

    Attributes:
        statuses: Each lead once, by workspace, destination and status.
        ended: Leads that came to rest in the last day, by workspace and status.
        dlq: Dead letters of `leads.dlq`.
        parked: Dead letters of `leads.parked`.
        imports: The imports, newest first.
        days: Money by day, workspace and destination.
        yields: What Clay finds, by column.
    """

    statuses: list[StatusCount]
    ended: dict[str, dict[str, int]]
    dlq: DeadLetters
    parked: DeadLetters
    imports: list[FoundImport]
    days: list[Day]
    yields: list[ColumnYield]


UNKNOWN_LEAD: Final = "unknown_lead"
"""The `error` of a refusal: no record of this lead was processed."""
NOT_READ_YET: Final = "not_read_yet"
"""The `error` of a refusal: the board has not read Kafka to its end.

It cannot say yet that a lead is unknown.
"""


class Refusal(Answer, frozen=True, kw_only=True):
    """Any answer that is not 200.

    `error` is a stable code; `text` says what is wrong and what to do.
    """

    error: str
    text: str
