"""Admission: decides whether a lead of a lane may be sent now, or a run may be polled.

One function asks all parts of the lane, so that a lead which the budget refuses uses up neither a
probe nor a token.
"""

from typing import Final

import msgspec

from stream_app.domain.lane.holds import (
    BREAKER_OPEN,
    DESTINATION_FAILS,
    KEY_REFUSED,
    NO_WEBHOOK,
    PAUSED,
    RATE,
    RATE_LIMITED,
    WEBHOOK_OUT,
    reason_of,
)
from stream_app.domain.lane.lane import Lane, mode_of, with_destination
from stream_app.domain.limits import (
    breaker,
    budget,
    concurrency,
    destination_health,
    rate,
    suspension,
)
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.concurrency import NOTHING, StallDetector
from stream_app.domain.model.messages import Status
from stream_app.domain.model.ranges import Wait
from stream_app.domain.model.text import count
from stream_app.domain.plan import Actor, Destination, InForce

# How long until a lead asks again about what only a person changes. A command wakes it at once.
_ASK_AGAIN_MS: Final = 60_000


class AdmissionRequest(msgspec.Struct, frozen=True):
    """A lead that asks to be sent.

    Attributes:
        destination: Where it is to be sent.
        not_before_ms: When it may be sent at the earliest, epoch ms.
        not_after_ms: When it may be sent at the latest, epoch ms; None: at any time.
        patient: True if an event has reported that it is held, so that it only waits.
        bulk: True if it was published as bulk, so that it cannot use the hot share of the budget.
        was_probe: True if it was the last probe of the circuit breaker and was refused. It keeps
            itself ready to be the next one.
        as_dead_letter: True if it becomes a dead letter without being sent (`decide_dead_letter`).
    """

    destination: Destination
    not_before_ms: int = 0
    not_after_ms: int | None = None
    patient: bool = False
    bulk: bool = False
    was_probe: bool = False
    as_dead_letter: bool = False


class Grant(msgspec.Struct, frozen=True):
    """Permission for one POST, with what it took from the lane.

    Attributes:
        destination: Where the lead is sent.
        reservation: What the budget keeps for it.
        webhook_id: The webhook, or the routine, that it is sent to.
        permit: That of the lane's circuit breaker.
        suspension_probe: Set if the lead is a probe of the lane's suspension.
        at_boot_ms: When it was granted, on the monotonic clock.
        webhook_probe: Set if the lead is a probe of its webhook.
        own_permit: That of its destination's breaker, if the lane has several destinations.
    """

    destination: Destination
    reservation: budget.Reservation
    webhook_id: str
    permit: breaker.Permit
    suspension_probe: suspension.Probe | None
    at_boot_ms: int
    webhook_probe: suspension.Probe | None = None
    own_permit: breaker.Permit | None = None

    @property
    def is_probe(self) -> bool:
        """True if a breaker lets it through to see whether Clay or its destination works again."""
        own = self.own_permit
        return self.permit.lease is not None or (own is not None and own.lease is not None)


class Held(msgspec.Struct, frozen=True):
    """The lead may not be sent now.

    Attributes:
        reason: A stable code (holds.py).
        text: The reason in words.
        until_ms: When to ask again at the latest, epoch ms.
        status: The event to write if the whole lane is held or the lead is too old; None while it
            only waits for a token or a slot.
        defer: True if the lead must leave and return later, at `back_ms` if that is given.
        bulk_only: True if a hot lead would be admitted.
        back_ms: When a deferred lead returns, epoch ms; 0: not known.
        alone: True if its destination fails alone, so that leads of the others would be sent.
    """

    reason: str
    text: str
    until_ms: int
    status: Status | None = None
    defer: bool = False
    bulk_only: bool = False
    back_ms: int = 0
    alone: bool = False

    @property
    def may_end_ms(self) -> int:
        """When the hold may end without an operator, epoch ms; 0 if no time ends it."""
        return 0 if reason_of(self.reason).lifted_by == "person" else self.until_ms


def held(
    reason: str,
    text: str,
    until_ms: int,
    *,
    bulk_only: bool = False,
    back_ms: int = 0,
) -> Held:
    """Return a hold with the event of its reason."""
    return Held(
        reason,
        text,
        until_ms,
        reason_of(reason).status,
        bulk_only=bulk_only,
        back_ms=back_ms,
    )


ASK_AGAIN: Final = Held("asked_again", "", 0)
"""The answer to a waiting lead after an operator has changed something: it is to ask again."""


def decide(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    now_ms: int,
    boot_ms: int,
    hot: bool = True,
    stall: StallDetector = NOTHING,
    *,
    poll_first: bool = False,
) -> tuple[Lane, Grant | Held]:
    """Decide whether this lead may be sent now, and take what it needs from the lane.

    It takes a token, a reservation, a probe and a submission, or nothing. Keep the returned lane in
    any case, because deadlines that a clock step moved too far are bounded in it.

    Args:
        policy: The policy in force.
        lane: The lane.
        destination: Where the lead is to be sent.
        now_ms: The time, epoch ms.
        boot_ms: The time on the monotonic clock.
        hot: True if the lead may use the share of the budget that bulk leads leave.
        stall: The requests that have no answer yet.
        poll_first: True if the next token belongs to a poll that waits for one, too.
    """
    if lane.pause is not None:
        return lane, held(PAUSED, _paused(lane.pause), now_ms + _ASK_AGAIN_MS)
    hooks, picked = quota.pick(
        policy.limits(destination),
        policy.suspension,
        lane.quota,
        destination.webhook_ids,
        now_ms,
    )
    if not isinstance(picked, quota.Picked):
        if picked is not None:
            lane = msgspec.structs.replace(lane, quota=hooks)
        return lane, without_webhook(lane, destination, picked, now_ms)
    suspended = lane.suspension
    probe = None
    if suspended is not None and suspension.holds(suspended, destination.alias):
        suspended, answer = suspension.permit(policy.suspension, suspended, now_ms)
        if isinstance(answer, Wait):
            lane = msgspec.structs.replace(lane, suspension=suspended)
            return lane, held(suspended.reason, suspended.text, answer.until_ms)
        probe = answer
    mode = mode_of(policy, lane)
    own = lane.destinations.get(destination.alias)
    own_permit = None
    if own is not None:
        own, own_answer = destination_health.permit(policy.breaker, own, now_ms, mode)
        if isinstance(own_answer, Wait):
            until_ms = _asked_again_ms(policy, own.breaker, own_answer, now_ms)
            lane = with_destination(lane, destination.alias, own)
            return lane, failing_alone(destination, own, until_ms)
        own_permit = own_answer
    tripped, permit = breaker.permit(policy.breaker, lane.breaker, now_ms, mode)
    if isinstance(permit, Wait):
        until_ms = _asked_again_ms(policy, tripped, permit, now_ms)
        hold = held(BREAKER_OPEN, why_open(lane), until_ms)
        return msgspec.structs.replace(lane, breaker=tripped), hold
    stalled = _stalled(policy, lane, stall, now_ms)
    if stalled is not None:
        return lane, stalled
    cost = destination.ceiling
    open_s = (
        destination.callback_deadline_s if destination.callbacks else policy.breaker.probe_lease_s
    )
    reserved = budget.reserve(
        policy.budget,
        lane.budget,
        cost,
        now_ms,
        hot,
        now_ms + int(open_s * 1000),
    )
    if isinstance(reserved, budget.BudgetRefused):
        return lane, _no_room(policy, lane, destination, reserved, now_ms)
    bucket, wait = rate.take(policy.rate, lane.rate, now_ms)
    if wait is not None:
        hold = held(RATE, "waits for the rate limit", wait.until_ms)
        if now_ms < bucket.blocked_until_ms:
            hold = held(RATE_LIMITED, "Clay said 429 and when to come back", wait.until_ms)
        return msgspec.structs.replace(lane, rate=bucket), hold
    if poll_first:
        hold = held(
            RATE,
            "waits for the rate limit",
            now_ms + rate.interval_ms(policy.rate, bucket),
        )
        return lane, hold
    consumed = msgspec.structs.replace(
        lane,
        breaker=tripped,
        rate=bucket,
        budget=reserved[0],
        quota=quota.count(hooks, picked.webhook_id),
        suspension=suspended,
        shadowed=lane.shadowed
        + (mode == "shadow" and tripped.phase != "closed" and permit.lease is None),
    )
    if own is not None:
        consumed = with_destination(consumed, destination.alias, own)
    return consumed, Grant(
        destination,
        reserved[1],
        picked.webhook_id,
        permit,
        probe,
        boot_ms,
        picked.probe,
        own_permit,
    )


class Poll(msgspec.Struct, frozen=True):
    """Permission for one poll.

    Attributes:
        probe: Set if it is the probe of a suspension.
        through_ms: The `since_ms` of the suspension that a poll of the same destination has begun,
            and that this one goes through; 0 if there is none.
    """

    probe: suspension.Probe | None = None
    through_ms: int = 0


class PollHeld(msgspec.Struct, frozen=True):
    """No poll now. `until_ms` (epoch ms): when to ask again at the latest.

    `for_token`: nothing but the rate is in the way. `by_breaker`: the circuit breaker is open, so a
    run that nobody has announced is polled at its next time.
    """

    until_ms: int
    for_token: bool = False
    by_breaker: bool = False


def decide_poll(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    now_ms: int,
    *,
    may_probe: bool = True,
) -> tuple[Lane, Poll | PollHeld]:
    """Decide whether the results of a run of this destination may be asked for now.

    A result is paid for, so neither a pause nor a suspension holds a poll. If Clay refuses the
    workspace's key, only a probe goes, because one poll shows whether the key is good again. If it
    refused a poll for another reason, the first one that is sent when the probe is due is that
    probe, so that no lead is. Keep the returned lane in any case.

    `may_probe`: False for a question about the balance, whose answer lifts no suspension.
    """
    mode = mode_of(policy, lane)
    if mode == "open":
        return lane, PollHeld(now_ms + _ASK_AGAIN_MS, by_breaker=True)
    if mode == "auto" and lane.breaker.phase == "open" and now_ms < lane.breaker.until_ms:
        return lane, PollHeld(lane.breaker.until_ms, by_breaker=True)
    suspended = lane.suspension
    probe = None
    through_ms = 0
    if suspended is not None and suspended.reason == KEY_REFUSED:
        if not may_probe:
            return lane, PollHeld(now_ms + _ASK_AGAIN_MS)
        suspended, answer = suspension.permit(policy.suspension, suspended, now_ms)
        if isinstance(answer, Wait):
            lane = msgspec.structs.replace(lane, suspension=suspended)
            return lane, PollHeld(answer.until_ms)
        probe = answer
    elif (
        may_probe
        and suspended is not None
        and suspended.by_poll
        and suspended.destination == destination.alias
    ):
        through_ms = suspended.since_ms
        suspended, answer = suspension.permit(policy.suspension, suspended, now_ms)
        probe = None if isinstance(answer, Wait) else answer
    bucket, wait = rate.take(policy.rate, lane.rate, now_ms)
    if wait is not None:
        return msgspec.structs.replace(lane, rate=bucket), PollHeld(wait.until_ms, for_token=True)
    return msgspec.structs.replace(lane, rate=bucket, suspension=suspended), Poll(probe, through_ms)


def would_hold(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    now_ms: int,
    hot: bool,
    stall: StallDetector,
) -> bool:
    """Return True if such a lead would be held, or admitted only as a probe. It takes nothing."""
    _, answer = decide(policy, lane, destination, now_ms, 0, hot, stall)
    if isinstance(answer, Held):
        return answer.status is not None
    return (
        answer.is_probe or answer.suspension_probe is not None or answer.webhook_probe is not None
    )


def at_limit(policy: InForce, lane: Lane, stall: StallDetector, now_ms: int) -> Held:
    """Return the hold of a lead while as many requests are in flight as may be.

    Either one of them ends soon, or Clay stalls.
    """
    certain_ms = concurrency.certain_ms(stall, lane.concurrency)
    return _stalled(policy, lane, stall, now_ms) or held(
        concurrency.IN_FLIGHT,
        "",
        certain_ms if certain_ms > now_ms else 0,
    )


def decide_dead_letter(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    now_ms: int,
    boot_ms: int,
    waits: bool,
) -> tuple[Lane, Grant | Held]:
    """Decide whether a record may become a dead letter now. The grant reserves nothing.

    While a flood of dead letters suspends the lane, only probes get a grant. Keep the returned lane
    in any case. `destination` only names the lane. `waits` is False for a record that must not be
    held.
    """
    grant = Grant(
        destination,
        budget.Reservation("", "", 0, 0),
        "",
        breaker.Permit(lane.breaker.epoch),
        None,
        boot_ms,
    )
    if not waits or lane.suspension is None or lane.suspension.reason != suspension.FLOOD:
        return lane, grant
    suspended, answer = suspension.permit(policy.suspension, lane.suspension, now_ms)
    lane = msgspec.structs.replace(lane, suspension=suspended)
    if isinstance(answer, Wait):
        return lane, Held(suspended.reason, suspended.text, answer.until_ms)
    return lane, msgspec.structs.replace(grant, suspension_probe=answer)


def _stalled(policy: InForce, lane: Lane, stall: StallDetector, now_ms: int) -> Held | None:
    permit = concurrency.permit(
        policy.breaker,
        policy.max_in_flight,
        stall,
        lane.concurrency,
        now_ms,
    )
    if permit is None or mode_of(policy, lane) != "auto":
        return None
    return held(permit.reason, permit.text, permit.until_ms)


def _paused(by: Actor) -> str:
    return f"paused by {by.who}" + (f": {by.why}" if by.why else "")


def why_open(lane: Lane) -> str:
    """Return why the breaker holds the lane."""
    if lane.forced is not None and lane.forced.mode == "open":
        return f"the circuit breaker was forced open by {lane.forced.by.who}: {lane.forced.by.why}"
    phase = lane.breaker.phase.replace("_", " ")
    cause = breaker.OPENED_BECAUSE[lane.breaker.cause]
    return f"the circuit breaker is {phase}: {cause}"


def _asked_again_ms(
    policy: InForce,
    state: breaker.Breaker,
    answer: Wait,
    now_ms: int,
) -> int:
    """Return when to ask a breaker again.

    The probes of a half-open breaker may be answered at any moment, long before their lease ends.
    """
    if state.phase != "half_open":
        return answer.until_ms
    return min(answer.until_ms, now_ms + int(policy.breaker.open_s * 1000))


def failing_alone(
    destination: Destination,
    health: destination_health.DestinationHealth,
    until_ms: int,
) -> Held:
    """Return the hold of a destination that fails alone."""
    text = f"destination {destination.alias} fails by itself"
    if health.outage is not None:
        text += f": {breaker.outage_text(health.outage)}"
    return msgspec.structs.replace(held(DESTINATION_FAILS, text, until_ms), alone=True)


def without_webhook(
    lane: Lane,
    destination: Destination,
    suspended: Wait | None,
    now_ms: int,
) -> Held:
    """Return the hold of a destination that has no usable webhook.

    `suspended` is the wait for the first probe of its pool; None if none of its webhooks is probed.
    """
    ends = quota.used_up(lane.quota, destination.webhook_ids)
    match destination.kind:
        case "table":
            text = (
                f"destination {destination.alias} has no webhook left ({ends}): make a new one on "
                "its table in Clay, add it to webhooks_env, then `stream-app lanes reload`"
            )
        case "workflow":
            text = (
                f"destination {destination.alias} has no webhook left ({ends}): publish or resume "
                "it in Clay; or make another one, add it to webhooks_env, then `stream-app lanes "
                "reload`"
            )
        case "routine":
            text = (
                f"Clay does not start the routine of destination {destination.alias} ({ends}): "
                "publish it and switch its API on in Clay, or correct its id, then `stream-app "
                "lanes reload`"
            )
    if suspended is None:
        return held(NO_WEBHOOK, text, now_ms + _ASK_AGAIN_MS)
    return held(WEBHOOK_OUT, text, suspended.until_ms)


def _no_room(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    refused: budget.BudgetRefused,
    now_ms: int,
) -> Held:
    cost = destination.ceiling
    name = refused.reason
    # Only a bulk lead can be refused where a hot one is not.
    hot_goes = not isinstance(
        budget.reserve(policy.budget, lane.budget, cost, now_ms),
        budget.BudgetRefused,
    )
    amount = (
        count(cost.actions, "Action")
        if name.startswith("actions")
        else count(cost.credits, "credit")
    )
    text = f"the next lead may cost {amount}, and the budget {name} has less left"
    if name == "clock":
        text = "this machine's clock is behind the books of the budget"
    if hot_goes:
        text = f"the part of the budget {name} that hot_share leaves to bulk is used up"
    return held(
        f"budget_{name}",
        text,
        refused.until_ms,
        bulk_only=hot_goes,
        back_ms=refused.back_ms,
    )
