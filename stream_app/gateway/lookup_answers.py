"""What the look-up API answers, as types: `/openapi.json` is made from them, and `stream-app status` reads them."""

from __future__ import annotations

import msgspec

from stream_app.domain.lane.explain import Finding
from stream_app.domain.messages import LaneView, Scalar


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What all answers have: how far behind Kafka they are.

    as_of_ms  epoch ms: all that was on Kafka then is in the answer. Null: it has never been complete yet.
    lag       offsets still to be read, at most.
    trouble   why the read model does not go on, in words; empty when it does.
    """

    as_of_ms: int | None
    lag: int
    trouble: str


class Event(msgspec.Struct, frozen=True):
    """One step of a lead, as on `leads.status`. Times are epoch ms; `due_at_ms`: when it goes on by itself."""

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


class Story(msgspec.Struct, frozen=True):
    """The life of one record that came in.

    origin  its place, `topic/partition/offset`. `workspace` and `destination` are empty where no event names them.
    status  of the last event, at `at_ms`; `column`: where the books count it, '' where it is of no lead.
    """

    origin: str
    workspace: str
    destination: str
    status: str
    column: str
    at_ms: int
    trace_id: str
    events: list[Event]


class FoundResult(msgspec.Struct, frozen=True):
    """The last result of a lead, for one destination.

    source   `clay`, `cache`, `stale` or `local`; `version` grows by one with every result of the lead.
    age_s    age of the data when it was published. `fields`: the data, which is personal.
    problem  why fields and age are missing, in words; empty when they are not.
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
    """One lead id: its newest stories first (`story_count`: how many there are), and its results."""

    lead_id: str
    stories: list[Story]
    story_count: int
    results: list[FoundResult]


class LeadAnswer(Answer, frozen=True, kw_only=True):
    """`GET /leads/{id}`."""

    lead: FoundLead


class LeadsAnswer(Answer, frozen=True, kw_only=True):
    """`GET /leads?person=`: every lead that counts for that person, or was made from that person."""

    leads: list[FoundLead]


class WaitingLead(msgspec.Struct, frozen=True):
    """A record on a lead topic that no worker has taken yet.

    origin    its place, `topic/partition/offset`. `since_ms`: when it was appended, epoch ms.
    ahead     records before it in its topic and partition, at most.
    findings  what holds its partition or its lane, as `stream-app explain` has it.
    """

    lead_id: str
    workspace: str
    origin: str
    since_ms: int
    ahead: int
    findings: list[Finding]


class WaitingAnswer(Answer, frozen=True, kw_only=True):
    """`GET /waiting`: the search ends with the first records that are found, and after a few seconds.

    searched  waiting records that were looked at. `left`: those that were not, at most.
    problem   why the search is not complete, in words; empty when it is.
    """

    leads: list[WaitingLead]
    searched: int
    left: int
    problem: str


class LanesAnswer(Answer, frozen=True, kw_only=True):
    """`GET /lanes`. `unreadable`: lanes whose state this program cannot read."""

    lanes: list[LaneView]
    unreadable: int


class StatusCount(msgspec.Struct, frozen=True):
    """How many stories have this last status. `column`: where the books count them."""

    workspace: str
    destination: str
    status: str
    column: str
    stories: int


class BooksAnswer(Answer, frozen=True, kw_only=True):
    """`GET /books`: counted from the events that Kafka keeps. What proves them is `stream-app books`.

    columns   stories by column, as `stream-app books` has them; `stands`: the same by workspace, destination and
              status.
    not_leads stories of callbacks that settled no lead, and of erasures, by status: no column counts them, and in
              `stands` their column is ''.
    waiting   by lead topic: offsets that the worker's group has not passed, at most so many leads; null: not known.
    """

    columns: dict[str, int]
    stands: list[StatusCount]
    not_leads: dict[str, int]
    waiting: dict[str, int] | None


class Cause(msgspec.Struct, frozen=True):
    """Dead letters of one cause. `kind`: failed, poison, policy or foreign."""

    kind: str
    workspace: str
    destination: str
    reason: str
    http_status: str
    letters: int


class Letters(msgspec.Struct, frozen=True):
    """The letters that one topic keeps; `causes` has the most frequent ones, the greatest first."""

    letters: int
    causes: list[Cause]


class DeadLettersAnswer(Answer, frozen=True, kw_only=True):
    """`GET /dlq`: what `leads.dlq` and `leads.parked` keep, those that were sent back since included."""

    dlq: Letters
    parked: Letters


class Refusal(Answer, frozen=True, kw_only=True):
    """Any answer that is not 200. `error` is a stable code, `text` says what is wrong and what to do."""

    error: str
    text: str
