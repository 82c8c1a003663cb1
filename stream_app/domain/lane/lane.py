"""A lane: breaker, window, rate, budget, quota and suspension of one workspace, and their two joint decisions.

`admit` asks all of them in one function, so that a lead that the budget refuses uses no probe and no token. `settle`
reports the end of a POST to all of them. The lane's row is committed in the same transaction as the lead's.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.domain.delivery.outcome import Accepted, Denied, Gone, Outcome, Poison, RateLimited, Refused, Uncertain
from stream_app.domain.lane import (
    breaker,
    budget,
    callback_health,
    concurrency,
    estimate,
    flood_guard,
    rate,
    stall_detector,
    suspension,
)
from stream_app.domain.lane import health as window
from stream_app.domain.lane import text as lane_text
from stream_app.domain.lane import webhook_quota as quota
from stream_app.domain.lane.bounds import Wait
from stream_app.domain.lane.outage import Outage, failed
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.lane.stall_detector import NOTHING, StallDetector
from stream_app.domain.messages import Actor, Change, Status
from stream_app.domain.policy import Destination, Workspace, in_force

LANE_VERSION: Final = 1
OVER_CEILING: Final = "over_ceiling"
WEBHOOK_GONE: Final = "webhook_gone"
LIFTED_BY_CALLBACK: Final = frozenset({callback_health.REASON, OVER_CEILING})
"""Reasons of suspensions that a 2xx cannot lift: only the callback of the probe counts."""

_ASK_AGAIN_MS: Final = 60_000  # what only a person can change; a command wakes the gate at once


class Forced(msgspec.Struct, frozen=True):
    """A breaker mode that an operator set."""

    mode: breaker.Mode
    by: Actor


class Lane(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of a lane's row. Fields are only ever added.

    `partition` is where it lives: a configuration that moves it is refused. `window` is of the breaker and the flood
    guard, and people see `health`. `pause`, `forced` and `changes` are an operator's orders (domain/lane/overrides.py).
    """

    workspace: str
    partition: int
    version: int = LANE_VERSION
    breaker: breaker.Breaker = breaker.Breaker()
    health: window.Window = window.Window()
    window: window.Window = window.Window()
    rate: rate.Rate = rate.Rate()
    budget: budget.Budget = budget.Budget()
    quota: quota.Quota = quota.Quota()
    suspension: suspension.Suspension | None = None
    pause: Actor | None = None
    forced: Forced | None = None
    changes: tuple[Change, ...] = ()
    estimates: dict[str, estimate.Estimate] = {}
    shadowed: int = 0
    callback_health: callback_health.CallbackHealth = callback_health.CallbackHealth()
    concurrency: concurrency.Concurrency = concurrency.Concurrency()
    flood_guard: flood_guard.FloodGuard = flood_guard.FloodGuard()
    outage: Outage | None = None


class AdmissionRequest(msgspec.Struct, frozen=True):
    """A lead that asks to be sent, within a period of time (epoch ms).

    `patient`: its hold was reported, and it waits. `bulk`: it was published as bulk and cannot use the hot share.
    `as_dead_letter`: it becomes a dead letter without being sent (domain/dead_letter/reject_admission.py).
    """

    destination: Destination
    not_before_ms: int = 0
    not_after_ms: int | None = None
    patient: bool = False
    bulk: bool = False
    as_dead_letter: bool = False


class Grant(msgspec.Struct, frozen=True):
    """Permission for one POST, with what it took from the lane.

    `probe`: of the lane's suspension. `webhook_probe`: of the webhook's. `at_boot_ms`: on the monotonic clock.
    """

    destination: Destination
    reservation: budget.Reservation
    webhook_id: str
    permit: breaker.Permit
    probe: suspension.Probe | None
    at_boot_ms: int
    webhook_probe: suspension.Probe | None = None


class Held(msgspec.Struct, frozen=True):
    """Not now. `until_ms` (epoch ms): when to ask again at the latest.

    `status`: the event to write if the whole lane is held or the lead is too old; None for a wait for a token. `defer`:
    the lead must return later, at `back_ms` if given. `bulk_only`: a hot lead would be admitted.
    """

    reason: str
    text: str
    until_ms: int
    status: Status | None = None
    defer: bool = False
    bulk_only: bool = False
    back_ms: int = 0


ASK_AGAIN: Final = Held("asked_again", "", 0)
"""The answer to a waiting lead when an operator has changed what it asked for."""


def admit(
    policy: Workspace,
    lane: Lane,
    destination: Destination,
    now_ms: int,
    boot_ms: int,
    hot: bool = True,
    stall: StallDetector = NOTHING,
) -> tuple[Lane, Grant | Held]:
    """Decide whether this lead may be sent now. Takes token, reservation, probe and submission together or none.

    Keep the returned lane in any case: deadlines that a clock step moved too far are bounded in it. `hot`: it may use
    the share of the budget that bulk leaves. `stall`: the requests without an answer. `boot_ms`: on the monotonic
    clock.
    """
    policy = in_force(policy, lane.changes)
    if lane.pause is not None:
        return lane, Held("paused", lane_text.paused(lane.pause), now_ms + _ASK_AGAIN_MS, "held_paused")
    hooks, picked = quota.pick(policy.quota, policy.suspension, lane.quota, destination.webhook_ids, now_ms)
    if not isinstance(picked, quota.Picked):
        if picked is not None:
            lane = msgspec.structs.replace(lane, quota=hooks)
        return lane, without_webhook(lane, destination, picked, now_ms)
    stopped, probe = lane.suspension, None
    if stopped is not None and suspension.holds(stopped, destination.alias):
        stopped, answer = suspension.permit(policy.suspension, stopped, now_ms)
        if isinstance(answer, Wait):
            held = Held(stopped.reason, stopped.text, answer.until_ms, "held_paused")
            return msgspec.structs.replace(lane, suspension=stopped), held
        probe = answer
    mode = mode_of(policy, lane)
    tripped, permit = breaker.permit(policy.breaker, lane.breaker, now_ms, mode)
    if isinstance(permit, Wait):
        until_ms = permit.until_ms
        if tripped.phase == "half_open":  # its probes may answer at any moment: their lease is only the last one
            until_ms = min(until_ms, now_ms + int(policy.breaker.open_s * 1000))
        held = Held("breaker_open", lane_text.why_open(lane), until_ms, "held_outage")
        return msgspec.structs.replace(lane, breaker=tripped), held
    silent = stall_detector.permit(policy.breaker, policy.concurrency, stall, lane.concurrency, now_ms)
    if silent is not None and mode == "auto":
        return lane, Held(silent.reason, silent.text, silent.until_ms, "held_outage" if silent.text else None)
    cost = destination.ceiling
    open_s = destination.callback_deadline_s if destination.callbacks else policy.breaker.probe_lease_s
    reserved = budget.reserve(policy.budget, lane.budget, cost, cost, now_ms, hot, now_ms + int(open_s * 1000))
    if isinstance(reserved, budget.Refused):
        return lane, _no_room(policy, lane, destination, reserved, now_ms, hot)
    bucket, wait = rate.take(policy.rate, lane.rate, now_ms)
    if wait is not None:
        return msgspec.structs.replace(lane, rate=bucket), _slow(bucket, wait, now_ms)
    counted = quota.count(hooks, picked.webhook_id)
    consumed = msgspec.structs.replace(
        lane,
        breaker=tripped,
        rate=bucket,
        budget=reserved[0],
        quota=counted,
        suspension=stopped,
        shadowed=lane.shadowed + (mode == "shadow" and tripped.phase != "closed" and permit.lease is None),
    )
    return consumed, Grant(destination, reserved[1], picked.webhook_id, permit, probe, boot_ms, picked.probe)


def is_held(
    policy: Workspace, lane: Lane, destination: Destination, now_ms: int, hot: bool, stall: StallDetector
) -> bool:
    """Return True if such a lead would be held, or admitted only as a probe. Takes nothing."""
    _, answer = admit(policy, lane, destination, now_ms, 0, hot, stall)
    if isinstance(answer, Held):
        return answer.status is not None
    return answer.permit.lease is not None or answer.probe is not None or answer.webhook_probe is not None


def settle(
    policy: Workspace,
    lane: Lane,
    grant: Grant,
    outcome: Outcome | None,
    now_ms: int,
    rand: float,
    in_flight: int = 0,
    others_wait: bool = False,
) -> tuple[Lane, Settlement]:
    """Return the lane after a POST ended (None: it was not started). `rand` is from 0 to 1.

    A reservation stays while the lead may still cost something. `in_flight`: POSTs of the lane that were in flight,
    this one included. `others_wait`: more leads of the lane wait to be sent.
    """
    policy = in_force(policy, lane.changes)
    if isinstance(outcome, Accepted | Uncertain):
        limit = concurrency.answered(policy.concurrency, lane.concurrency, outcome.latency_ms, in_flight)
        lane = msgspec.structs.replace(lane, concurrency=limit)
    if grant.webhook_probe is not None and not isinstance(outcome, Gone):
        accepted = isinstance(outcome, Accepted)
        hooks = quota.probed(lane.quota, grant.webhook_id, grant.webhook_probe, accepted, now_ms)
        lane = msgspec.structs.replace(lane, quota=hooks)
    match outcome:
        case Accepted():
            lane = _with_verdict(policy, lane, grant, "", outcome.latency_ms, now_ms, rand)
            lane = _probe_accepted(policy, lane, grant, now_ms)
            if lane.flood_guard.run:
                lane = msgspec.structs.replace(lane, flood_guard=flood_guard.FloodGuard())
            if grant.destination.callbacks:
                return lane, Settlement(True, now_ms)
            cost = grant.destination.estimate
            settled = budget.settle(lane.budget, grant.reservation, cost, grant.destination.ceiling)
            spent = msgspec.structs.replace(grant.reservation, credits=cost.credits, actions=cost.actions)
            return msgspec.structs.replace(lane, budget=settled.state), Settlement(True, now_ms, spent=spent)
        case Uncertain():
            lane = _with_verdict(policy, lane, grant, outcome.reason, outcome.latency_ms, now_ms, rand)
            return _with_probe_released(lane, grant, now_ms), Settlement(True, now_ms)
        case Refused():
            alone = in_flight <= 1 and not others_wait
            return _refused(policy, lane, grant, outcome, now_ms, rand, alone)
        case RateLimited():
            lane = _without_verdict(lane, grant, now_ms)
            after_ms = rate.parse_retry_after(outcome.retry_after, now_ms)
            limited = rate.on_429(policy.rate, lane.rate, now_ms, after_ms, rand)
            return msgspec.structs.replace(lane, rate=limited), Settlement(False, limited.blocked_until_ms)
        case Denied():
            text = lane_text.turned_away(lane, grant, outcome)
            lane = _without_verdict(lane, grant, now_ms, keep_probe=True)
            return _suspended(policy, lane, grant, outcome.reason, text, now_ms), Settlement(False, now_ms, text)
        case Gone():
            there = grant.destination
            text = f"the webhook {grant.webhook_id} of {there.alias} is gone (404): a probe tries it again now and then"
            fresh = suspension.begin(policy.suspension, outcome.reason, text, now_ms, there.alias, there.setup_id)
            hooks = quota.gone(policy.suspension, lane.quota, grant.webhook_id, fresh, grant.webhook_probe)
            return msgspec.structs.replace(_without_verdict(lane, grant, now_ms), quota=hooks), Settlement(
                False, now_ms, text
            )
        case Poison():
            lane = record_dead_letter(
                policy, _without_verdict(lane, grant, now_ms, keep_probe=True), grant, outcome.reason, now_ms
            )
            return _with_probe_released(lane, grant, now_ms), Settlement(False, now_ms)
        case None:
            return _without_verdict(lane, grant, now_ms), Settlement(False, now_ms)


def record_dead_letter(policy: Workspace, lane: Lane, grant: Grant, cause: str, now_ms: int) -> Lane:
    """Return the lane after a granted lead became a dead letter. Too many of them suspend it."""
    policy = in_force(policy, lane.changes)
    seen = window.record_dead_letter(policy.window, lane.window, now_ms)
    lane = msgspec.structs.replace(
        lane, flood_guard=flood_guard.record_dead_letter(lane.flood_guard, cause), window=seen
    )
    totals = window.totals(policy.window, seen, now_ms)
    why = flood_guard.verdict(policy.flood_guard, lane.flood_guard, totals)
    if not why and not (lane.suspension is not None and lane.suspension.reason == flood_guard.REASON):
        return lane
    text = f"{why or 'dead letters go on'}: look at `stream-app dlq`, mend the cause, then resume the lane"
    return _suspended(policy, lane, grant, flood_guard.REASON, text, now_ms)


def charge(lane: Lane, reservation: budget.Reservation) -> Lane:
    """Book a reservation as spent in full: nothing can show any more that it cost less."""
    cost = budget.Cost(reservation.credits, reservation.actions)
    return msgspec.structs.replace(lane, budget=budget.settle(lane.budget, reservation, cost, cost).state)


def lifted(lane: Lane) -> Lane:
    """Return the lane without its suspension. Its counters restart, or the next failure would suspend it again."""
    reason = lane.suspension.reason if lane.suspension is not None else ""
    lane = msgspec.structs.replace(
        lane, suspension=None, callback_health=callback_health.reset_reported(lane.callback_health)
    )
    if reason == flood_guard.REASON:
        lane = msgspec.structs.replace(lane, flood_guard=flood_guard.FloodGuard(), window=window.Window())
    return lane


def probe_succeeded(policy: Workspace, lane: Lane, destination: str, now_ms: int) -> Lane:
    """Return the lane after a probe showed that this destination is healthy: resumed, unless others are not."""
    silent = callback_health.still_missing(lane.callback_health, destination)
    if lane.suspension is None or lane.suspension.reason != callback_health.REASON or not silent:
        return lifted(lane)
    text, policy = callback_health.missing_text(silent, destination), in_force(policy, lane.changes)
    left = suspension.exempt(policy.suspension, lane.suspension, destination, silent, text, now_ms)
    return msgspec.structs.replace(lane, suspension=left)


def _probe_accepted(policy: Workspace, lane: Lane, grant: Grant, now_ms: int) -> Lane:
    """Return the lane after a 2xx. The probe's 2xx lifts a suspension, or makes it wait for the callback."""
    stopped, there = lane.suspension, grant.destination
    if stopped is None or suspension.lift(stopped, grant.probe) is not None:
        return lane
    if stopped.reason in LIFTED_BY_CALLBACK:
        if there.callbacks:
            return msgspec.structs.replace(
                lane, suspension=suspension.postpone_probe(policy.suspension, stopped, now_ms)
            )
        if there.alias != stopped.destination:  # it never calls back: of the others this says nothing
            return _with_probe_released(lane, grant, now_ms)
    return probe_succeeded(policy, lane, there.alias, now_ms)


def mode_of(policy: Workspace, lane: Lane) -> breaker.Mode:
    """Return the mode of the breaker: an operator's, else the configuration's."""
    return lane.forced.mode if lane.forced is not None else policy.breaker.mode


def _suspended(policy: Workspace, lane: Lane, grant: Grant, reason: str, text: str, now_ms: int) -> Lane:
    fresh = suspension.begin(
        policy.suspension, reason, text, now_ms, grant.destination.alias, grant.destination.setup_id
    )
    return msgspec.structs.replace(
        lane, suspension=suspension.suspend(policy.suspension, lane.suspension, fresh, grant.probe)
    )


def without_webhook(lane: Lane, destination: Destination, suspended: Wait | None, now_ms: int) -> Held:
    """Return the hold of a destination without a usable webhook. `suspended`: until the first probe of its pool."""
    text = lane_text.no_webhook(lane.quota, destination)
    if suspended is None:
        return Held("no_webhook", text, now_ms + _ASK_AGAIN_MS, "held_paused")
    return Held(WEBHOOK_GONE, text, suspended.until_ms, "held_paused")


def _no_room(
    policy: Workspace, lane: Lane, destination: Destination, refused: budget.Refused, now_ms: int, hot: bool
) -> Held:
    cost, share, name = destination.ceiling, policy.budget.hot_share and not hot, refused.reason
    hot_goes = share and not isinstance(budget.reserve(policy.budget, lane.budget, cost, cost, now_ms), budget.Refused)
    text = f"the budget {name} has no room for a lead of {cost.credits} credits"
    if hot_goes:
        text = f"the part of the budget {name} that hot_share leaves to bulk is used up"
    return Held(f"budget_{name}", text, refused.until_ms, "held_budget", False, bool(hot_goes), refused.back_ms)


def _slow(bucket: rate.Rate, wait: Wait, now_ms: int) -> Held:
    if now_ms < bucket.blocked_until_ms:
        return Held("rate_limited", "Clay said 429 and when to come back", wait.until_ms)
    return Held("rate", "waits for the rate limit", wait.until_ms)


def _refused(
    policy: Workspace, lane: Lane, grant: Grant, outcome: Refused, now_ms: int, rand: float, alone: bool
) -> tuple[Lane, Settlement]:
    free = mode_of(policy, lane) == "shadow"
    was_closed = free or (lane.breaker.phase == "closed" and not breaker.is_late(lane.breaker, grant.permit))
    lane = _with_verdict(policy, lane, grant, outcome.reason, outcome.latency_ms, now_ms, rand)
    lane = _with_probe_released(_refunded(lane, grant), grant, now_ms)
    after_ms = rate.parse_retry_after(outcome.retry_after, now_ms)
    if after_ms:
        until_ms = now_ms + min(after_ms, int(policy.rate.retry_after_max_s * 1000))
        blocked_ms = max(lane.rate.blocked_until_ms, until_ms)
        blocked = msgspec.structs.replace(lane.rate, tokens=0.0, blocked_until_ms=blocked_ms)
        lane = msgspec.structs.replace(lane, rate=blocked)
    counts = was_closed and (free or lane.breaker.phase == "closed")
    run = 0 if free else lane.breaker.consecutive
    return lane, Settlement(counts, max(now_ms, lane.rate.blocked_until_ms), run=run, alone=alone)


def _with_verdict(
    policy: Workspace, lane: Lane, grant: Grant, failure: str, latency_ms: int, now_ms: int, rand: float
) -> Lane:
    """Record a call. Health counts each one. Breaker and window ignore those from before the breaker last opened."""
    if failure:
        lane = msgspec.structs.replace(lane, outage=failed(lane.outage, failure, lane.breaker.phase, now_ms))
    ok, verdict = not failure, breaker.verdict(policy.breaker, not failure, latency_ms)
    health = window.record(policy.health, lane.health, now_ms, ok, verdict == "slow", latency_ms)
    if breaker.is_late(lane.breaker, grant.permit):
        return msgspec.structs.replace(lane, health=health)
    seen = window.record(policy.window, lane.window, now_ms, ok, verdict == "slow")
    totals = window.totals(policy.window, seen, now_ms)
    mode = mode_of(policy, lane)
    after = breaker.on_result(policy.breaker, lane.breaker, grant.permit, verdict, totals, now_ms, rand, mode)
    closed_now = after.phase == "closed" and lane.breaker.phase != "closed"
    return msgspec.structs.replace(lane, breaker=after, window=window.Window() if closed_now else seen, health=health)


def _without_verdict(lane: Lane, grant: Grant, now_ms: int, keep_probe: bool = False) -> Lane:
    """Return probe and reservation: the call said nothing about Clay's health and cost nothing."""
    freed = breaker.release_probe(lane.breaker, grant.permit)
    lane = _refunded(lane if freed is lane.breaker else msgspec.structs.replace(lane, breaker=freed), grant)
    return lane if keep_probe else _with_probe_released(lane, grant, now_ms)


def _refunded(lane: Lane, grant: Grant) -> Lane:
    return msgspec.structs.replace(lane, budget=budget.refund(lane.budget, grant.reservation))


def _with_probe_released(lane: Lane, grant: Grant, now_ms: int) -> Lane:
    if lane.suspension is None or grant.probe is None:
        return lane
    return msgspec.structs.replace(lane, suspension=suspension.release_probe(lane.suspension, grant.probe, now_ms))
