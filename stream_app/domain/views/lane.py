"""The published view of a lane, and what changed since the last one."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, Self

import msgspec

from stream_app.domain.lane.admission import Held, decide, failing_alone, why_open, without_webhook
from stream_app.domain.lane.holds import (
    BREAKER_OPEN,
    DESTINATION_FAILS,
    FORCED_OPEN,
    PAUSED,
    PROBE_DUE,
    WEBHOOK_OUT,
    code_of,
    lifts,
    reason_of,
    remains,
)
from stream_app.domain.lane.lane import Lane, mode_of
from stream_app.domain.limits import (
    breaker,
    concurrency,
    rate,
    suspension,
    window,
    yield_health,
)
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.balance import Reading
from stream_app.domain.limits.breaker import OF_FAILURES, Mode, Outage, outage_text
from stream_app.domain.limits.budget import MeterName
from stream_app.domain.limits.concurrency import NOTHING, STALLED, StallDetector
from stream_app.domain.limits.meters import Estimate, Meter, first_estimate, meters
from stream_app.domain.limits.suspension import Suspension
from stream_app.domain.limits.webhook_quota import Webhook, WebhookLimits
from stream_app.domain.model.numbers import Real, TimeMs, Whole
from stream_app.domain.model.ranges import Wait
from stream_app.domain.model.text import count
from stream_app.domain.plan import Actor, Change, Destination, InForce, Workspace, byline, in_force

# The time in `LaneView.turns` of a destination whose next lead goes now, as a probe.
AS_PROBE: Final = 1


class LaneChange(msgspec.Struct, frozen=True):
    """A change of a lane that is reported once: a stable code and a text."""

    kind: str
    text: str


class PartHold(msgspec.Struct, frozen=True, omit_defaults=True):
    """Some leads of a lane are held while others move.

    Attributes:
        destinations: The destinations whose leads are held.
        until_ms: When it may end, epoch ms; 0 if no time ends it, or if that time has passed.
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
        until_ms: When it may move again, epoch ms; 0 if no time ends the hold, or if that time has
            passed.
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


def view(
    configured: Workspace,
    lane: Lane,
    destinations: Sequence[Destination],
    now_ms: int,
    before: LaneView | None = None,
    stall: StallDetector = NOTHING,
    runs: RunsView | None = None,
) -> LaneView:
    """Return the view of a lane. `before` is the last view, `news` the difference to it."""
    policy = lane.in_force(configured)
    counts = window.totals(window.FIVE_MINUTES, lane.health, now_ms)
    latency = window.latency(window.FIVE_MINUTES, lane.health, now_ms) or window.Latency(0, 0, 0)
    shown = meters(policy.budget, lane.budget, now_ms)
    mode = mode_of(policy, lane)
    pace = _pace(policy, lane)
    answers = {
        destination.alias: _answer(policy, lane, destination, now_ms, stall)
        for destination in destinations
    }
    held = _whole(policy, lane, destinations, answers)
    pool = {
        name: policy.limits(destination)
        for destination in destinations
        for name in destination.webhook_ids
    }
    since = partial(_since_ms, lane, mode, destinations, now_ms=now_ms, stall=stall)
    to_bulk = dict(answers)
    for destination in destinations:
        if to_bulk[destination.alias] is None and policy.budget.hot_share:
            to_bulk[destination.alias] = _answer(
                policy,
                lane,
                destination,
                now_ms,
                stall,
                hot=False,
            )
    seen = LaneView(
        workspace=lane.workspace,
        partition=lane.partition,
        at_ms=now_ms,
        breaker=lane.breaker.phase,
        health=window.status(counts, before.health if before else None),
        score=round(window.score(counts), 1),
        rate_per_s=round(rate.current(policy.rate, lane.rate), 2),
        holds=held.reason if held else "",
        text=held.text if held else "",
        until_ms=held.until_ms if held else 0,
        submissions=sum(webhook.count for webhook in lane.quota.webhooks.values()),
        since_ms=since(held.reason) if held else 0,
        mode=mode,
        mode_by=lane.forced.by if lane.forced else None,
        paused_by=lane.pause,
        changes=lane.changes,
        meters=shown,
        estimates={
            destination.alias: lane.estimates.get(destination.alias)
            or first_estimate(destination.estimate)
            for destination in destinations
        },
        webhooks=_webhooks(lane, pool),
        calls=counts.calls,
        p50_ms=latency.p50_ms,
        p95_ms=latency.p95_ms,
        p99_ms=latency.p99_ms,
        concurrency=concurrency.current(policy.max_in_flight, lane.concurrency),
        sends_per_s=pace.per_s,
        bound_by=pace.bound_by,
        held_ms=pace.held_ms,
        shadow_breaker=lane.shadowed,
        shadow_budget=sum(period.shadowed for period in lane.budget.days),
        submissions_left={
            destination.alias: left
            for destination in destinations
            if (left := _submissions_left(policy, lane, destination)) is not None
        },
        outage=lane.outage if lane.breaker.cause in OF_FAILURES else None,
        partly=tuple(_partly(to_bulk, held, since)),
        turns=dict(_turns(policy, lane, answers, now_ms)),
        destinations={
            destination.alias: _health_of(lane, destination.alias, now_ms, before)
            for destination in destinations
        },
        falls=tuple(yield_health.falls(lane.yields, now_ms)),
        reading=lane.reading,
        runs=runs,
    ).at(now_ms)
    return (
        seen
        if before is None
        else msgspec.structs.replace(seen, news=tuple(_news(configured, before, seen, pool)))
    )


def held_since(seen: LaneView) -> dict[str, int]:
    """Return since when the lane is held, by reason.

    The next owner of the lane's row could not know it from the rest of the row.
    """
    since = {part.holds: part.since_ms for part in seen.partly}
    return since | {seen.holds: seen.since_ms} if seen.holds else since


def _health_of(
    lane: Lane,
    alias: str,
    now_ms: int,
    before: LaneView | None,
) -> DestinationView:
    """Return the health of a destination. A single one has the health of its lane."""
    own = lane.destinations.get(alias)
    counts = window.totals(window.FIVE_MINUTES, own.calls if own else lane.health, now_ms)
    known = before.destinations.get(alias) if before is not None else None
    return DestinationView(
        round(window.score(counts), 1),
        window.status(counts, known.health if known is not None else None),
        counts.calls,
        own.breaker.phase if own else "closed",
    )


class _Pace(msgspec.Struct, frozen=True):
    per_s: float
    bound_by: Literal["rate", "max_in_flight", "concurrency"]
    held_ms: int = 0


def _pace(policy: InForce, lane: Lane) -> _Pace:
    """Return how fast the lane can send now, and which limit says so."""
    per_s = rate.current(policy.rate, lane.rate)
    limit = concurrency.current(policy.max_in_flight, lane.concurrency)
    most_per_s = concurrency.most_per_s(limit, lane.concurrency)
    if per_s <= most_per_s:
        return _Pace(round(per_s, 2), "rate")
    # Two digits: a view is published when it changes, and these means change a little with each
    # call.
    bound_by: Literal["max_in_flight", "concurrency"] = "concurrency"
    if limit == policy.max_in_flight:
        bound_by = "max_in_flight"
    return _Pace(
        float(f"{most_per_s:.2g}"),
        bound_by,
        int(float(f"{lane.concurrency.held_ms:.2g}")),
    )


def _answer(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    now_ms: int,
    stall: StallDetector,
    hot: bool = True,
) -> Held | None:
    """Return what admission would answer to a lead of the destination.

    It is None if the lead goes now or with the next token.
    """
    _, answer = decide(policy, lane, destination, now_ms, 0, hot, stall)
    if isinstance(answer, Held):
        return answer if reason_of(answer.reason).lifted_by != "turn" else None
    if answer.suspension_probe is not None and lane.suspension is not None:
        # The next lead goes, and only as a probe.
        return _suspended(lane.suspension)
    if _fails_alone(lane, destination.alias) and mode_of(policy, lane) == "auto":
        own = lane.destinations[destination.alias]
        # The next lead goes, and only as a probe.
        return failing_alone(destination, own, breaker.due_ms(own.breaker))
    pool = destination.webhook_ids
    limits = policy.limits(destination)
    if answer.webhook_probe is None or quota.has_one_in_use(limits, lane.quota, pool):
        return None
    # The next lead goes, and only as a probe.
    return without_webhook(
        lane,
        destination,
        Wait(quota.due_ms(limits, lane.quota, pool)),
        now_ms,
    )


def _whole(
    policy: InForce,
    lane: Lane,
    destinations: Sequence[Destination],
    answers: Mapping[str, Held | None],
) -> Held | None:
    """Return what holds the whole lane.

    `answers`: what admission would answer to leads of each destination.
    """
    if None in answers.values():
        return _tripped(policy, lane)
    held = _together([answer for answer in answers.values() if answer is not None])
    if held is None or reason_of(held.reason).lifted_by == "person":
        return held
    if reason_of(held.reason).lifted_by == "time" and (
        beneath := _beneath(policy, lane, destinations)
    ):
        return Held(beneath.reason, beneath.text, max(beneath.until_ms, held.until_ms))
    # A suspension may end before an operator lets the breaker decide again.
    if mode_of(policy, lane) == "open":
        return Held(BREAKER_OPEN, why_open(lane), 0)
    if held.reason == BREAKER_OPEN and lane.breaker.phase == "half_open":
        return Held(BREAKER_OPEN, held.text, breaker.due_ms(lane.breaker))
    return held


def _together(answers: Sequence[Held]) -> Held | None:
    """Return the hold of the first destination, with the words of all that have its reason."""
    if not answers:
        return None
    first = answers[0]
    same = [answer for answer in answers if answer.reason == first.reason]
    return msgspec.structs.replace(
        first,
        text="; ".join(dict.fromkeys(answer.text for answer in same)),
        until_ms=min(answer.until_ms for answer in same),
    )


def _partly(
    answers: Mapping[str, Held | None],
    whole: Held | None,
    since: Callable[[str, Sequence[str]], int],
) -> Iterator[PartHold]:
    """Yield what holds only the leads of some destinations, or only bulk leads.

    `answers` are those to bulk leads.
    """
    holds: dict[Held, list[str]] = {}
    for alias, answer in answers.items():
        if answer is not None and (whole is None or answer.reason != whole.reason):
            holds.setdefault(answer, []).append(alias)
    for held, aliases in holds.items():
        yield PartHold(
            destinations=tuple(aliases),
            holds=held.reason,
            text=held.text,
            until_ms=held.until_ms,
            bulk=held.bulk_only,
            since_ms=since(held.reason, aliases),
        )


def _turns(
    policy: InForce,
    lane: Lane,
    answers: Mapping[str, Held | None],
    now_ms: int,
) -> Iterator[tuple[str, int]]:
    """Yield when the next lead may go to each destination that is held.

    A destination is held if it takes no leads, or takes them only as probes.
    """
    mode = mode_of(policy, lane)
    tripped = lane.breaker.phase != "closed" and mode == "auto"
    for alias, held in answers.items():
        if held is not None:
            until_ms = 0 if mode == "open" else held.may_end_ms
            yield alias, until_ms if until_ms > now_ms or not until_ms else AS_PROBE
        elif tripped or suspension.holds(lane.suspension, alias):
            yield alias, AS_PROBE


def _fails_alone(lane: Lane, alias: str) -> bool:
    own = lane.destinations.get(alias)
    return own is not None and own.breaker.phase != "closed"


def _tripped(policy: InForce, lane: Lane) -> Held | None:
    """Return the hold of a lane whose breaker lets its next lead go only as a probe."""
    if lane.breaker.phase == "closed" or mode_of(policy, lane) != "auto":
        return None
    return Held(BREAKER_OPEN, why_open(lane), breaker.due_ms(lane.breaker))


def _suspended(state: Suspension) -> Held:
    return Held(state.reason, state.text, suspension.due_ms(state))


def _beneath(
    policy: InForce,
    lane: Lane,
    destinations: Sequence[Destination],
) -> Held | None:
    """Return the hold that is left of the whole lane when one that time lifts is over.

    Its probe could not go before.
    """
    destination = destinations[0]
    pool = destination.webhook_ids
    limits = policy.limits(destination)
    due_ms = quota.due_ms(limits, lane.quota, pool)
    if due_ms and not quota.has_one_in_use(limits, lane.quota, pool):
        return without_webhook(lane, destination, Wait(due_ms), due_ms)
    state = lane.suspension
    if state is not None and all(suspension.holds(state, place.alias) for place in destinations):
        return _suspended(state)
    return _tripped(policy, lane)


def _since_ms(
    lane: Lane,
    mode: Mode,
    destinations: Sequence[Destination],
    reason: str,
    aliases: Sequence[str] = (),
    *,
    now_ms: int,
    stall: StallDetector,
) -> int:
    """Return when the trouble began, epoch ms.

    `aliases`: the destinations that it concerns; none: all.
    """
    if reason == PAUSED and lane.pause is not None:
        return lane.pause.at_ms
    if lane.suspension is not None and reason == lane.suspension.reason:
        return lane.suspension.since_ms
    if reason == STALLED:
        return stall.since_ms
    if reason == WEBHOOK_OUT:
        out = quota.suspended(lane.quota)
        concerned = [place for place in destinations if not aliases or place.alias in aliases]
        pools = {webhook_id for place in concerned for webhook_id in place.webhook_ids}
        return min(out[webhook_id].since_ms for webhook_id in out.keys() & pools)
    if code_of(reason, mode) == FORCED_OPEN and lane.forced is not None:
        return lane.forced.by.at_ms
    if reason == DESTINATION_FAILS:
        concerned = [place for place in destinations if not aliases or place.alias in aliases]
        own = [lane.destinations[place.alias] for place in concerned]
        outages = [health.outage for health in own if health.outage is not None]
        return min((outage.since_ms for outage in outages), default=now_ms)
    if reason == BREAKER_OPEN:
        return lane.breaker.outage_ms
    return lane.held_since.get(reason, now_ms)


def _submissions_left(policy: InForce, lane: Lane, destination: Destination) -> int | None:
    return quota.left(policy.limits(destination), lane.quota, destination.webhook_ids)


def _webhooks(lane: Lane, pool: Collection[str]) -> dict[str, Webhook]:
    """Return all webhooks of the lane. Those of no pool concern nobody while they are out."""
    return {
        name: webhook
        if name in pool or webhook.suspension is None
        else msgspec.structs.replace(webhook, suspension=None)
        for name, webhook in lane.quota.webhooks.items()
    }


def _changed_settings(
    configured: Workspace,
    before: tuple[Change, ...],
    now: tuple[Change, ...],
) -> Iterator[LaneChange]:
    """Yield what operators have changed, and what is as configured again."""
    as_configured = in_force(configured, ())
    earlier = {
        change.key: change for change in before if in_force(configured, (change,)) != as_configured
    }
    for change in now:
        if change not in before:
            value = earlier[change.key].now if change.key in earlier else change.was
            yield LaneChange(
                "changed",
                f"{change.key}: {value} -> {change.now}, {byline(change.by)}",
            )
    for key in sorted(earlier.keys() - {change.key for change in now}):
        yield LaneChange(
            "changed",
            f"{key}: {earlier[key].now} -> {earlier[key].was}, as configured",
        )


def _news(
    configured: Workspace,
    before: LaneView,
    now: LaneView,
    pool: Mapping[str, WebhookLimits],
) -> Iterator[LaneChange]:
    """Yield what has changed.

    `pool`: the webhooks of the lane's destinations, with their limits.
    """
    if now.paused_by != before.paused_by:
        by = now.paused_by
        yield (
            LaneChange("paused", f"paused {byline(by)}") if by else LaneChange("resumed", "resumed")
        )
    if now.mode != before.mode:
        by_whom = f", {byline(now.mode_by)}" if now.mode_by else ""
        yield LaneChange("mode", f"the breaker's mode is {now.mode}{by_whom}")
    if now.changes != before.changes:
        yield from _changed_settings(configured, before.changes, now.changes)
    yield from _of_breakers(before, now)
    if now.health != before.health:
        text = f"{count(now.calls, 'call')}, score {now.score:g}, p95 {now.p95_ms} ms"
        yield LaneChange(f"health_{now.health}", text)
    if now.holds != before.holds:
        moves = LaneChange("moves", f"no longer {before.holds.replace('_', ' ')}")
        yield (
            LaneChange("held", f"{now.holds.replace('_', ' ')}: {now.text}") if now.holds else moves
        )
    yield from _of_suspended(before, now)
    yield from _of_meters(before, now)
    yield from _of_yields(before, now)
    yield from _of_webhooks(before, now, pool)


def _of_breakers(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    """Yield what the breaker of the lane and those of its destinations changed."""
    if now.breaker != before.breaker:
        text = now.text or f"the circuit breaker is {now.breaker.replace('_', ' ')}"
        if now.outage is not None:
            since = datetime.fromtimestamp(now.outage.since_ms / 1000, UTC)
            text = f"{outage_text(now.outage)} since {since:%H:%M} UTC; {text}"
        yield LaneChange(f"breaker_{now.breaker}", text)
    for alias, health in now.destinations.items():
        known = before.destinations.get(alias)
        if health.breaker != (known.breaker if known is not None else "closed"):
            text = f"destination {alias}: its circuit breaker is {health.breaker.replace('_', ' ')}"
            yield LaneChange(f"destination_{health.breaker}", text)


def _of_webhooks(
    before: LaneView,
    now: LaneView,
    pool: Mapping[str, WebhookLimits],
) -> Iterator[LaneChange]:
    """Yield what became of the webhooks.

    `pool`: those of the lane's destinations, with their limits.
    """
    for webhook_id, webhook in now.webhooks.items():
        was = before.webhooks.get(webhook_id, Webhook())
        if webhook.dead and not was.dead:
            yield LaneChange("webhook_dead", f"webhook {webhook_id} is out of use: {webhook.dead}")
        limits = pool.get(webhook_id)
        if limits is None:
            continue
        if bool(webhook.suspension) != bool(was.suspension):
            text = (
                webhook.suspension.text
                if webhook.suspension
                else f"webhook {webhook_id} is in use again"
            )
            yield LaneChange(WEBHOOK_OUT if webhook.suspension else "webhook_back", text)
        if webhook.count >= limits.warn_at > was.count:
            left = count(int(limits.rotate_at) - webhook.count, "more submission")
            yield LaneChange(
                "quota_warning",
                f"webhook {webhook_id} is left after {left}: add a new one",
            )


def _of_suspended(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    """Yield what the suspension of some destinations changes; of a whole lane, `held` tells it."""
    was = _suspended_parts(before)
    holds = _suspended_parts(now)
    for reason in holds.keys() - was.keys():
        yield LaneChange("held_in_part", f"{reason.replace('_', ' ')}: {holds[reason]}")
    for reason in was.keys() - holds.keys():
        if not now.holds:
            yield LaneChange("moves", f"no longer {reason.replace('_', ' ')}")


def _suspended_parts(seen: LaneView) -> dict[str, str]:
    """Return the words for each suspension of some destinations, by its reason."""
    return {
        part.holds: part.text
        for part in seen.partly
        # Only these have no other news: Clay's answers have suspended the destinations.
        if reason_of(part.holds).lifted_by == "callback"
    }


def _of_yields(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    was = {(fall.destination, fall.column): fall for fall in before.falls}
    for fall in now.falls:
        if was.pop((fall.destination, fall.column), None) is None:
            yield LaneChange(yield_health.YIELD_FELL, fall.text)
    for destination, column in was:
        yield LaneChange("yield_back", f"the yield of {column} of {destination} is as usual again")


def _of_meters(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    for name, meter in now.meters.items():
        was = before.meters.get(name)
        if was is None or was.period != meter.period:
            if was is not None and was.warned:
                yield LaneChange("budget_new_period", f"{name}: {meter.period} begins")
            was = None
        if meter.warned > (was.warned if was else 0):
            text = f"{name}: {meter.used} of {meter.cap} for {meter.period} are used"
            yield LaneChange(f"budget_{meter.warned}", text)
