"""The published view of a lane.

lane_now.py makes it, and lane_news.py has what changed since the last one.
"""

from typing import Final, Literal, Self

import msgspec

from stream_app.domain.lane.holds import PROBE_DUE, code_of, lifts, reason_of, remains
from stream_app.domain.limits import yield_health
from stream_app.domain.limits.balance import Reading
from stream_app.domain.limits.breaker import Outage, outage_text
from stream_app.domain.limits.budget import MeterName
from stream_app.domain.limits.meters import Estimate, Meter
from stream_app.domain.limits.webhook_quota import Webhook
from stream_app.domain.model.numbers import Real, TimeMs, Whole
from stream_app.domain.model.text import count
from stream_app.domain.plan import Actor, Change, InForce, Workspace, in_force

# The time in `LaneView.turns` of a destination whose next lead goes now, as a probe.
AS_PROBE: Final = 1


BY_PERSONS: Final = frozenset({"paused", "resumed", "mode", "changed"})
"""The kinds of changes that a person makes by an order. Every other one the lane makes itself."""


class LaneChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of a lane that is reported once.

    Attributes:
        kind: What changed, a stable code.
        text: The change in words.
        reason: The code of the hold that begins or ends, as `LaneView.holds`; '' of other changes.
    """

    kind: str
    text: str
    reason: str = ""


class PartHold(msgspec.Struct, frozen=True, omit_defaults=True):
    """Some leads of a lane are held while others move.

    Attributes:
        destinations: The destinations whose leads are held.
        until_ms: When it ends, or when the next probe goes if a probe ends it, epoch ms; 0 if
            neither is to come.
        bulk: True if only bulk leads are held.
        since_ms: Since when, epoch ms.
        probe_due: True if the next lead goes as a probe.
    """

    destinations: tuple[str, ...]
    holds: str
    text: str
    until_ms: TimeMs = 0
    bulk: bool = False
    since_ms: TimeMs = 0
    probe_due: bool = False

    def at(self, now_ms: int) -> Self | None:
        """Return what is left of it at a later time; None if it is over."""
        left = remains(self.holds, self.until_ms, now_ms, probe_due=self.probe_due)
        if left is None:
            return None
        return msgspec.structs.replace(self, until_ms=left.until_ms, probe_due=left.probe_due)

    @property
    def says(self) -> str:
        """What holds these leads, in words."""
        return f"{self.text}; the next of them goes as a probe" if self.probe_due else self.text


class DestinationView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The health of one destination in the last five minutes.

    Attributes:
        score: 0 to 100, as `LaneView.score`.
        health: As `LaneView.health`.
        calls: Its calls.
        breaker: `closed`, or `open` or `half_open` while it fails alone and is held for that.
    """

    score: Real
    health: Literal["healthy", "degraded", "unhealthy", "insufficient_data"]
    calls: Whole = 0
    breaker: Literal["closed", "open", "half_open"] = "closed"


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the owner of a partition has read a topic.

    Attributes:
        offset: The offset of the next record that it reads.
        untaken: Records before that which wait in its memory: no step of them is written.
    """

    offset: Whole
    untaken: Whole = 0


class RunsView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The runs of routines that leads of a lane wait for.

    Nothing is written for a poll, so a lane in which nothing else happens shows the next one up to
    a minute late.

    Attributes:
        open: How many there are.
        next_ms: When the next of them is polled, epoch ms. A time that has passed is that of a poll
            which waits, or which was made since the view was written.
        waits_for_rate: True if polls are due that wait for the rate of the lane.
    """

    open: Whole
    next_ms: TimeMs = 0
    waits_for_rate: bool = False

    @property
    def says(self) -> str:
        """How many there are and what their polls wait for, in words."""
        waits = "; polls wait for the rate of the lane" if self.waits_for_rate else ""
        return f"{count(self.open, 'run is', 'runs are')} open{waits}"


class LaneView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a lane for people and programs, on `leads.lanes`, keyed by workspace.

    The topic is compacted, and a view is written when it has changed.

    Attributes:
        breaker: `closed`, `open` or `half_open`.
        score: The health as a number from 0 to 100.
        rate_per_s: The present rate of the token bucket.
        holds: Why nothing is admitted now, a stable code; '' if the lane runs.
        until_ms: When the hold ends, or when the next probe goes if a probe ends it, epoch ms; 0 if
            neither is to come.
        since_ms: When the trouble began that holds it, epoch ms.
        lifts: What makes it move again.
        news: The changes since the lane's last record on this topic.
        mode: The mode of the breaker. `open` and `closed` are forced, `shadow` only reports.
        changes: What operators changed at run time.
        meters: `credits_day`, `credits_month`, `actions_day`, `actions_month`.
        estimates: The cost of a lead by destination, learned from callbacks; the configured
            estimate before that.
        webhooks: By id: submissions so far, and why it is out of use.
        p50_ms: Latency of the last five minutes, as `p95_ms` and `p99_ms`.
        concurrency: How many POSTs may be in flight.
        sends_per_s: How many leads a second can be sent at most now: its rate, or fewer if few
            POSTs may be in flight.
        bound_by: Which limit that is: `rate`, `max_in_flight`, or `concurrency`, which is below
            `max_in_flight` while Clay is slower than usual.
        held_ms: How long a POST is in flight, from its grant to the answer, if that bounds the
            lane.
        shadow_breaker: Leads that a shadow breaker admitted and would have held.
        shadow_budget: Leads that a shadow budget admitted and would have held.
        submissions_left: Submissions left, by destination; without those that have no end.
        partly: What holds only some of its leads, in addition to `holds`.
        outage: The calls that failed while the circuit breaker is not closed.
        turns: By destination that is held, when its next lead may go, epoch ms; 0 if no time ends
            the hold, 1 if the next lead goes now, as a probe.
        probe_due: True if the lane is held, and its next lead goes as a probe.
        positions: By topic of leads, how far the lane's partition was read. The newest view of a
            partition counts.
        destinations: The health of each destination.
        falls: The columns that Clay finds much less often than before (`yield` of a destination).
        reading: The last reading of Clay's balance, where the workspace has an API key.
        runs: The runs that its leads wait for; null if there is none.
    """

    workspace: str
    partition: Whole
    at_ms: TimeMs
    breaker: Literal["closed", "open", "half_open"]
    health: Literal["healthy", "degraded", "unhealthy", "insufficient_data"]
    score: Real
    rate_per_s: Real
    holds: str = ""
    text: str = ""
    until_ms: TimeMs = 0
    submissions: Whole = 0
    since_ms: TimeMs = 0
    lifts: str = ""
    news: tuple[LaneChange, ...] = ()
    mode: Literal["auto", "open", "closed", "shadow"] = "auto"
    mode_by: Actor | None = None
    paused_by: Actor | None = None
    changes: tuple[Change, ...] = ()
    meters: dict[MeterName, Meter] = {}
    estimates: dict[str, Estimate] = {}
    webhooks: dict[str, Webhook] = {}
    calls: Whole = 0
    p50_ms: TimeMs = 0
    p95_ms: TimeMs = 0
    p99_ms: TimeMs = 0
    concurrency: Whole = 0
    sends_per_s: Real = 0.0
    bound_by: Literal["rate", "max_in_flight", "concurrency"] = "rate"
    held_ms: Whole = 0
    shadow_breaker: Whole = 0
    shadow_budget: Whole = 0
    submissions_left: dict[str, Whole] = {}
    partly: tuple[PartHold, ...] = ()
    outage: Outage | None = None
    turns: dict[str, Whole] = {}
    probe_due: bool = False
    positions: dict[str, Position] = {}
    destinations: dict[str, DestinationView] = {}
    falls: tuple[yield_health.Fall, ...] = ()
    reading: Reading | None = None
    runs: RunsView | None = None

    def in_force(self, configured: Workspace) -> InForce:
        """Return the policy that the lane applies: the configured one with operators' changes."""
        return in_force(configured, self.changes)

    def at(self, now_ms: int) -> Self:
        """Return the view as it is at a later time.

        Everything that tells a person or a program of the lane uses it. A hold that time lifts is
        over once its time has passed, although the lane publishes that a moment later. A hold that
        a probe lifts is not: the lane stays held until a lead comes, and that lead goes as a probe.
        """
        parts = tuple(rest for part in self.partly if (rest := part.at(now_ms)) is not None)
        falls = tuple(fall for fall in self.falls if now_ms - fall.since_ms < yield_health.LASTS_MS)
        seen = self
        if parts != self.partly or len(falls) < len(self.falls):
            seen = msgspec.structs.replace(self, partly=parts, falls=falls)
        if not self.holds:
            return seen
        code = code_of(self.holds, self.mode)
        left = remains(code, self.until_ms, now_ms, probe_due=self.probe_due)
        if left is None:
            return msgspec.structs.replace(
                seen,
                holds="",
                text="",
                until_ms=0,
                since_ms=0,
                lifts="",
                probe_due=False,
            )
        since_ms = self.since_ms
        if self.outage is not None and reason_of(code).waits_for == "outage":
            since_ms = self.outage.since_ms
        return msgspec.structs.replace(
            seen,
            holds=code,
            until_ms=left.until_ms,
            probe_due=left.probe_due,
            since_ms=since_ms,
            lifts=lifts(code, self.workspace),
        )

    @property
    def says(self) -> str:
        """What holds the lane, in words; '' if it runs."""
        text = self.text
        if self.outage is not None and reason_of(self.holds).waits_for == "outage":
            text = f"{outage_text(self.outage)}; {text}"
        return f"{text}; {PROBE_DUE}" if self.probe_due else text
