"""The view of a lane as it is now: what holds it or a part of it, since when, and its pace."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from stream_app.domain.lane.admission import Held, decide, failing_alone, why_open, without_webhook
from stream_app.domain.lane.holds import (
    BREAKER_OPEN,
    DESTINATION_FAILS,
    PAUSED,
    WEBHOOK_OUT,
    reason_of,
)
from stream_app.domain.lane.lane import Lane, mode_of
from stream_app.domain.limits import breaker, concurrency, rate, suspension, window, yield_health
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.breaker import OF_FAILURES
from stream_app.domain.limits.concurrency import NOTHING, STALLED, StallDetector
from stream_app.domain.limits.meters import first_estimate, meters
from stream_app.domain.limits.suspension import Suspension
from stream_app.domain.limits.webhook_quota import Webhook, WebhookLimits
from stream_app.domain.limits.window import WindowTotals
from stream_app.domain.model.ranges import Wait
from stream_app.domain.plan import Destination, InForce, Workspace
from stream_app.domain.views.lane import AS_PROBE, DestinationView, LaneView, PartHold, RunsView
from stream_app.domain.views.lane_news import news_of


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
    pace = _pace(policy, lane)
    holds = _holds(policy, lane, destinations, now_ms, stall)
    limits = {destination.alias: policy.limits(destination) for destination in destinations}
    pool = {
        name: limits[destination.alias]
        for destination in destinations
        for name in destination.webhook_ids
    }
    health = _health_of(counts, before)
    seen = LaneView(
        workspace=lane.workspace,
        partition=lane.partition,
        at_ms=now_ms,
        breaker=lane.breaker.phase,
        health=health.health,
        score=health.score,
        rate_per_s=pace.rate_per_s,
        holds=holds.whole.reason,
        text=holds.whole.text,
        until_ms=holds.whole.until_ms,
        submissions=sum(webhook.count for webhook in lane.quota.webhooks.values()),
        since_ms=holds.since_ms,
        mode=mode_of(policy, lane),
        mode_by=lane.forced.by if lane.forced else None,
        paused_by=lane.pause,
        changes=lane.changes,
        meters=meters(policy.budget, lane.budget, now_ms),
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
        concurrency=pace.concurrency,
        sends_per_s=pace.sends_per_s,
        bound_by=pace.bound_by,
        held_ms=pace.held_ms,
        shadow_breaker=lane.shadowed,
        shadow_budget=sum(period.shadowed for period in lane.budget.days),
        submissions_left=_submissions_left(lane, destinations, limits),
        outage=lane.outage if lane.breaker.cause in OF_FAILURES else None,
        partly=holds.partly,
        turns=holds.turns,
        destinations=_healths(lane, destinations, health, now_ms, before),
        falls=tuple(yield_health.falls(lane.yields, now_ms)),
        reading=lane.reading,
        runs=runs,
    ).at(now_ms)
    if before is None:
        return seen
    news = tuple(news_of(configured, before, seen, pool))
    return msgspec.structs.replace(seen, news=news) if news else seen


def held_since(seen: LaneView) -> dict[str, int]:
    """Return since when the lane is held, by reason.

    The next owner of the lane's row could not know it from the rest of the row.
    """
    since = {part.holds: part.since_ms for part in seen.partly}
    return since | {seen.holds: seen.since_ms} if seen.holds else since


def _healths(
    lane: Lane,
    destinations: Sequence[Destination],
    of_lane: DestinationView,
    now_ms: int,
    before: LaneView | None,
) -> dict[str, DestinationView]:
    """Return the health of each destination. A single one has the health of its lane, `of_lane`."""
    healths: dict[str, DestinationView] = {}
    for destination in destinations:
        alias = destination.alias
        own = lane.destinations.get(alias)
        if own is None:
            healths[alias] = of_lane
            continue
        counts = window.totals(window.FIVE_MINUTES, own.calls, now_ms)
        known = before.destinations.get(alias) if before is not None else None
        healths[alias] = _health_of(counts, known, own.breaker.phase)
    return healths


def _health_of(
    counts: WindowTotals,
    before: LaneView | DestinationView | None,
    phase: breaker.Phase = "closed",
) -> DestinationView:
    """Return the health of the leads whose calls were counted. `before`: the last view of it."""
    return DestinationView(
        round(window.score(counts), 1),
        window.status(counts, before.health if before is not None else None),
        counts.calls,
        phase,
    )


class _Pace(msgspec.Struct, frozen=True):
    """How fast the lane can send. The fields are those of `LaneView`."""

    rate_per_s: float
    concurrency: int
    sends_per_s: float
    bound_by: Literal["rate", "max_in_flight", "concurrency"]
    held_ms: int = 0


def _pace(policy: InForce, lane: Lane) -> _Pace:
    """Return how fast the lane can send now, and which limit says so."""
    per_s = rate.current(policy.rate, lane.rate)
    rate_per_s = round(per_s, 2)
    limit = concurrency.current(policy.max_in_flight, lane.concurrency)
    most_per_s = concurrency.most_per_s(limit, lane.concurrency)
    if per_s <= most_per_s:
        return _Pace(rate_per_s, limit, rate_per_s, "rate")
    # Two digits: a view is published when it changes, and these means change a little with each
    # call.
    return _Pace(
        rate_per_s,
        limit,
        float(f"{most_per_s:.2g}"),
        "max_in_flight" if limit == policy.max_in_flight else "concurrency",
        int(float(f"{lane.concurrency.held_ms:.2g}")),
    )


class _Holds(msgspec.Struct, frozen=True):
    """What holds a lane now.

    Attributes:
        whole: What holds all of it; without a reason if leads of a destination go.
        since_ms: When that trouble began, epoch ms; 0 if nothing holds all of it.
        partly: What holds only some of its leads, in addition.
        turns: As `LaneView.turns`.
    """

    whole: Held
    since_ms: int
    partly: tuple[PartHold, ...]
    turns: dict[str, int]


_NO_HOLD: Final = Held("", "", 0)


def _holds(
    policy: InForce,
    lane: Lane,
    destinations: Sequence[Destination],
    now_ms: int,
    stall: StallDetector,
) -> _Holds:
    """Return what holds the lane and parts of it, by what admission would answer to its leads."""
    answers = {
        destination.alias: _answer(policy, lane, destination, now_ms, stall)
        for destination in destinations
    }
    to_bulk = answers
    if policy.budget.hot_share:
        # Where hot leads go, the share of the budget that is kept for them may hold bulk leads.
        to_bulk = {
            destination.alias: answers[destination.alias]
            or _answer(policy, lane, destination, now_ms, stall, hot=False)
            for destination in destinations
        }
    whole = _whole(policy, lane, destinations, answers) or _NO_HOLD
    parts: dict[Held, list[Destination]] = {}
    for destination in destinations:
        answer = to_bulk[destination.alias]
        if answer is not None and answer.reason != whole.reason:
            parts.setdefault(answer, []).append(destination)
    return _Holds(
        whole,
        _since_ms(lane, whole.reason, destinations, now_ms, stall) if whole.reason else 0,
        tuple(
            PartHold(
                destinations=tuple(destination.alias for destination in concerned),
                holds=part.reason,
                text=part.text,
                until_ms=part.until_ms,
                bulk=part.bulk_only,
                since_ms=_since_ms(lane, part.reason, concerned, now_ms, stall),
            )
            for part, concerned in parts.items()
        ),
        dict(_turns(policy, lane, answers, now_ms)),
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
    if answer.webhook_probe is None:
        return None
    pool = destination.webhook_ids
    limits = policy.limits(destination)
    if quota.has_one_in_use(limits, lane.quota, pool):
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
    if held.reason == BREAKER_OPEN:
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
    reason: str,
    concerned: Sequence[Destination],
    now_ms: int,
    stall: StallDetector,
) -> int:
    """Return when the trouble began that holds leads of the `concerned` destinations, epoch ms.

    A trouble that has no time of its own is as old as the hold.
    """
    if reason == WEBHOOK_OUT:
        pools = {webhook_id for destination in concerned for webhook_id in destination.webhook_ids}
        out = quota.suspended(lane.quota)
        return min(out[webhook_id].since_ms for webhook_id in out.keys() & pools)
    if reason == DESTINATION_FAILS:
        healths = [lane.destinations[destination.alias] for destination in concerned]
        outages = [health.outage for health in healths if health.outage is not None]
        return min((outage.since_ms for outage in outages), default=now_ms)
    began_ms = {
        **lane.held_since,
        STALLED: stall.since_ms,
        BREAKER_OPEN: lane.breaker.outage_ms,
    }
    if lane.pause is not None:
        began_ms[PAUSED] = lane.pause.at_ms
    if lane.suspension is not None:
        began_ms[lane.suspension.reason] = lane.suspension.since_ms
    return began_ms.get(reason, now_ms)


def _submissions_left(
    lane: Lane,
    destinations: Sequence[Destination],
    limits: Mapping[str, WebhookLimits],
) -> dict[str, int]:
    """Return how many submissions each destination has left, without those that have no end.

    `limits`: those of the webhooks of each destination, by its alias.
    """
    left = {
        destination.alias: quota.left(
            limits[destination.alias],
            lane.quota,
            destination.webhook_ids,
        )
        for destination in destinations
    }
    return {alias: submissions for alias, submissions in left.items() if submissions is not None}


def _webhooks(lane: Lane, pool: Collection[str]) -> dict[str, Webhook]:
    """Return all webhooks of the lane. Those of no pool concern nobody while they are out."""
    return {
        name: webhook
        if name in pool or webhook.suspension is None
        else msgspec.structs.replace(webhook, suspension=None)
        for name, webhook in lane.quota.webhooks.items()
    }
