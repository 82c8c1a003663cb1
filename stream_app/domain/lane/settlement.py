"""Settlement: records in the lane what became of a POST, a poll, a callback or a dead letter."""

from functools import partial

import msgspec

from stream_app.domain.lane.admission import Grant, Poll
from stream_app.domain.lane.holds import OVER_CEILING, reason_of
from stream_app.domain.lane.lane import Lane, lifted, mode_of, with_destination
from stream_app.domain.limits import (
    breaker,
    budget,
    callback_health,
    concurrency,
    destination_health,
    meters,
    rate,
    suspension,
    window,
    yield_health,
)
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.budget import Cost, Reservation
from stream_app.domain.limits.suspension import Probe
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
    WebhookOut,
)
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunLimited,
    RunTooLarge,
    RunUnfinished,
    RunUnread,
)
from stream_app.domain.model.text import count
from stream_app.domain.plan import Destination, InForce


class Settlement(msgspec.Struct, frozen=True):
    """What a settled POST means for its lead.

    Attributes:
        counts: True if a failure may be the lead's own, because the breaker is neither open nor
            probing.
        wait_until_ms: Before this time the lane sends nothing, epoch ms.
        text: The text of the lead's event.
        spent: What was booked for the lead.
        in_a_row: How many failures the lane has in a row, including this one.
        alone: True if no other lead of the lane waits or is in flight.
    """

    counts: bool
    wait_until_ms: int
    text: str = ""
    spent: Reservation | None = None
    in_a_row: int = 0
    alone: bool = True

    def attempts(self, before: int) -> int:
        """Return the lead's failed attempts, including this one.

        An outage must not make dead letters. A failure after those of other leads is the start of
        an outage, and does not count. A failure after the lead's own does not count either while
        other leads can show whether the lead or Clay is at fault.
        """
        return before + (self.counts and self.in_a_row <= (before + 1 if self.alone else 1))


def settled(
    policy: InForce,
    lane: Lane,
    grant: Grant,
    outcome: Outcome | None,
    now_ms: int,
    rand: float,
    in_flight: int = 0,
    others_wait: bool = False,
    held_ms: int = 0,
) -> tuple[Lane, Settlement]:
    """Return the lane after a POST ended, and what that means for the lead.

    A reservation stays while the lead may still cost something.

    Args:
        policy: The policy in force.
        lane: The lane.
        grant: What the POST was admitted with.
        outcome: How it ended; None: it was not started.
        now_ms: The time, epoch ms.
        rand: A random number from 0 to 1.
        in_flight: POSTs of the lane that were in flight, including this one.
        others_wait: True if more leads of the lane wait to be sent.
        held_ms: The time from the grant to the end; 0 if a take-over came between them.
    """
    if grant.webhook_probe is not None and not isinstance(outcome, WebhookOut):
        hooks = quota.probed(
            lane.quota,
            grant.webhook_id,
            grant.webhook_probe,
            isinstance(outcome, Accepted),
            now_ms,
        )
        lane = msgspec.structs.replace(lane, quota=hooks)
    match outcome:
        case Accepted():
            lane = _with_latency(policy, lane, outcome.latency_ms, held_ms, in_flight)
            lane = _with_verdict(policy, lane, grant, "", outcome.latency_ms, now_ms, rand)
            lane = _probe_accepted(policy, lane, grant, now_ms)
            if lane.flood_guard.run:
                lane = msgspec.structs.replace(lane, flood_guard=suspension.FloodGuard())
            if grant.destination.callbacks:
                return lane, Settlement(True, now_ms)
            cost = grant.destination.estimate
            settled_budget = budget.settle(lane.budget, grant.reservation, cost)
            spent = msgspec.structs.replace(
                grant.reservation,
                credits=cost.credits,
                actions=cost.actions,
            )
            paid = lane.paid.unreported(grant.reservation.credits, cost.credits)
            lane = msgspec.structs.replace(lane, budget=settled_budget, paid=paid)
            return lane, Settlement(True, now_ms, spent=spent)
        case Uncertain():
            lane = _with_latency(policy, lane, outcome.latency_ms, held_ms, in_flight)
            lane = _with_verdict(
                policy,
                lane,
                grant,
                outcome.reason,
                outcome.latency_ms,
                now_ms,
                rand,
            )
            return _with_probe_released(lane, grant, now_ms), Settlement(True, now_ms)
        case Refused():
            return _refused(
                policy,
                lane,
                grant,
                outcome,
                now_ms,
                rand,
                in_flight <= 1 and not others_wait,
            )
        case RateLimited():
            lane = _without_verdict(lane, grant, now_ms)
            after_ms = rate.parse_retry_after(outcome.retry_after, now_ms)
            limited = rate.on_429(
                policy.rate,
                lane.rate,
                now_ms,
                after_ms,
                rand,
                outcome.latency_ms,
            )
            return msgspec.structs.replace(lane, rate=limited), Settlement(
                False,
                limited.blocked_until_ms,
            )
        case Denied():
            text = _denial_text(grant.destination, outcome)
            lane = _without_verdict(lane, grant, now_ms, keep_probe=True)
            lane = _suspended(
                policy,
                lane,
                grant.destination,
                outcome.reason,
                text,
                now_ms,
                grant.suspension_probe,
            )
            return lane, Settlement(False, now_ms, text)
        case WebhookOut():
            text = _webhook_text(lane, grant, outcome)
            fresh = suspension.begin(
                policy.suspension,
                outcome.cause,
                text,
                now_ms,
                grant.destination.alias,
                grant.destination.setup_id,
            )
            hooks = quota.take_out(
                policy.suspension,
                lane.quota,
                grant.webhook_id,
                fresh,
                grant.webhook_probe,
            )
            lane = msgspec.structs.replace(_without_verdict(lane, grant, now_ms), quota=hooks)
            return lane, Settlement(False, now_ms, text)
        case Poison():
            lane = _without_verdict(lane, grant, now_ms, keep_probe=True)
            lane = dead_letter_counted(policy, lane, grant, outcome.reason, now_ms)
            return _with_probe_released(lane, grant, now_ms), Settlement(False, now_ms)
        case None:
            return _without_verdict(lane, grant, now_ms), Settlement(False, now_ms)


def polled(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    poll: Poll,
    answer: RunAnswer,
    now_ms: int,
    rand: float,
    latency_ms: int,
) -> Lane:
    """Return the lane after Clay was asked for the results of a run. `rand` is from 0 to 1.

    The circuit breaker learns nothing from a poll, because one that fails costs nothing and is
    repeated. `latency_ms` is the time from the start of the request to its answer.
    """
    match answer:
        case RunLimited():
            after_ms = rate.parse_retry_after(answer.retry_after, now_ms)
            limited = rate.on_429(policy.rate, lane.rate, now_ms, after_ms, rand, latency_ms)
            lane = msgspec.structs.replace(lane, rate=limited)
        case RunDenied():
            text = f"destination {destination.alias}, asked for results: {answer.text}"
            reason = f"http_{answer.http_status}"
            return _suspended(
                policy,
                lane,
                destination,
                reason,
                text,
                now_ms,
                poll.probe,
                by_poll=True,
            )
        case RunUnfinished() | RunFinished() | RunTooLarge() | RunGone():
            if _is_lifted_by(poll, lane.suspension):
                return probe_succeeded(policy, lane, destination.alias, now_ms)
        case RunUnread():
            pass
    if lane.suspension is None or poll.probe is None:
        return lane
    released = suspension.release_probe(lane.suspension, poll.probe, now_ms)
    return msgspec.structs.replace(lane, suspension=released)


def _is_lifted_by(poll: Poll, suspended: suspension.Suspension | None) -> bool:
    """Return True if the answer to a poll shows that the cause of a suspension is gone.

    A poll that began before the suspension shows nothing.
    """
    if suspended is None:
        return False
    if suspension.lift(suspended, poll.probe) is None:
        return True
    return suspended.by_poll and poll.through_ms == suspended.since_ms


def dead_letter_counted(policy: InForce, lane: Lane, grant: Grant, cause: str, now_ms: int) -> Lane:
    """Return the lane after a granted lead became a dead letter. Too many of them suspend it."""
    seen = window.record_dead_letter(window.LAST_MINUTE, lane.window, now_ms)
    lane = msgspec.structs.replace(
        lane,
        flood_guard=suspension.counted(lane.flood_guard, cause),
        window=seen,
    )
    totals = window.totals(window.LAST_MINUTE, seen, now_ms)
    why = suspension.flooded(policy.flood_guard, lane.flood_guard, totals)
    if not why and not (lane.suspension is not None and lane.suspension.reason == suspension.FLOOD):
        return lane
    text = (
        f"{why or 'dead letters go on'}: look at `stream-app dlq`, mend the cause, then resume "
        "the lane"
    )
    return _suspended(
        policy,
        lane,
        grant.destination,
        suspension.FLOOD,
        text,
        now_ms,
        grant.suspension_probe,
    )


def charged(lane: Lane, reservation: Reservation) -> Lane:
    """Book a reservation as spent in full, because nothing can show any more that it cost less."""
    cost = Cost(reservation.credits, reservation.actions)
    return msgspec.structs.replace(
        lane,
        budget=budget.settle(lane.budget, reservation, cost),
        paid=lane.paid.unreported(cost.credits, cost.credits),
    )


def book_callback(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    reservation: Reservation,
    cost: Cost,
    now_ms: int,
) -> Lane:
    """Book the cost that a callback reports, and learn from it.

    A cost above the ceiling suspends the lane.
    """
    known = lane.estimates.get(destination.alias) or meters.first_estimate(destination.estimate)
    learned = meters.learn_cost(known, cost, destination.ceiling)
    after = budget.settle(lane.budget, reservation, cost)
    if cost.exceeds(reservation):
        after = budget.reviewed(policy.budget, after, now_ms)
    lane = msgspec.structs.replace(
        lane,
        budget=after,
        estimates={**lane.estimates, destination.alias: learned},
    )
    if not cost.exceeds(destination.ceiling):
        return lane
    text = (
        f"a lead of destination {destination.alias} cost "
        f"{count(cost.credits, 'credit')} and {count(cost.actions, 'Action')}, more than "
        f"its ceiling of {destination.ceiling.credits} and {destination.ceiling.actions}: no "
        "budget is safe with that; "
        "raise ceiling_* or make the table cheaper, then resume the lane"
    )
    return _suspended(policy, lane, destination, OVER_CEILING, text, now_ms, None)


def probe_succeeded(policy: InForce, lane: Lane, destination: str, now_ms: int) -> Lane:
    """Return the lane after a probe showed that this destination is healthy.

    The lane resumes, unless other destinations are not healthy.
    """
    missing = callback_health.still_missing(lane.callback_health, destination)
    if lane.suspension is not None and lane.suspension.reason == yield_health.YIELD_FELL:
        yields = yield_health.recovered(lane.yields, lane.suspension.destination)
        return msgspec.structs.replace(lifted(lane), yields=yields)
    if (
        lane.suspension is None
        or lane.suspension.reason != callback_health.NO_CALLBACKS
        or not missing
    ):
        return lifted(lane)
    text = callback_health.missing_text(missing, destination)
    left = suspension.exempt(policy.suspension, lane.suspension, destination, missing, text, now_ms)
    return msgspec.structs.replace(lane, suspension=left)


def _probe_accepted(policy: InForce, lane: Lane, grant: Grant, now_ms: int) -> Lane:
    """Return the lane after a 2xx.

    The 2xx of a probe lifts a suspension, or has it wait for the callback.
    """
    suspended = lane.suspension
    destination = grant.destination
    if suspended is None or suspension.lift(suspended, grant.suspension_probe) is not None:
        return lane
    if reason_of(suspended.reason).lifted_by == "callback":
        if destination.callbacks:
            later = suspension.postpone_probe(policy.suspension, suspended, now_ms)
            return msgspec.structs.replace(lane, suspension=later)
        # The probe's destination never calls back, so it proves nothing about the suspended one.
        if destination.alias != suspended.destination:
            return _with_probe_released(lane, grant, now_ms)
    return probe_succeeded(policy, lane, destination.alias, now_ms)


def _suspended(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    reason: str,
    text: str,
    now_ms: int,
    probe: Probe | None,
    *,
    by_poll: bool = False,
) -> Lane:
    fresh = suspension.begin(
        policy.suspension,
        reason,
        text,
        now_ms,
        destination.alias,
        destination.setup_id,
        by_poll=by_poll,
    )
    after = suspension.suspend(policy.suspension, lane.suspension, fresh, probe)
    return msgspec.structs.replace(lane, suspension=after)


def _refused(
    policy: InForce,
    lane: Lane,
    grant: Grant,
    outcome: Refused,
    now_ms: int,
    rand: float,
    alone: bool,
) -> tuple[Lane, Settlement]:
    free = mode_of(policy, lane) == "shadow"
    alone_fails = _fails_alone(lane, grant, ok=False, now_ms=now_ms)
    was_closed = free or _is_closed_for(lane, grant, alone_fails)
    lane = _with_verdict(policy, lane, grant, outcome.reason, outcome.latency_ms, now_ms, rand)
    lane = _with_probe_released(_refunded(lane, grant), grant, now_ms)
    after_ms = rate.parse_retry_after(outcome.retry_after, now_ms)
    if after_ms:
        until_ms = now_ms + min(after_ms, int(policy.rate.retry_after_max_s * 1000))
        blocked_ms = max(lane.rate.blocked_until_ms, until_ms)
        blocked = msgspec.structs.replace(lane.rate, tokens=0.0, blocked_until_ms=blocked_ms)
        lane = msgspec.structs.replace(lane, rate=blocked)
    after, _ = _breaker_of(lane, grant, alone_fails)
    counts = was_closed and (free or after.phase == "closed")
    in_a_row = 0 if free else after.consecutive
    wait_until_ms = max(now_ms, lane.rate.blocked_until_ms)
    return lane, Settlement(counts, wait_until_ms, in_a_row=in_a_row, alone=alone)


def _breaker_of(
    lane: Lane,
    grant: Grant,
    alone: bool,
) -> tuple[breaker.Breaker, breaker.Permit]:
    """Return the breaker for which a failed call counts, and the permit that the call had of it."""
    own = lane.destinations.get(grant.destination.alias)
    if alone and own is not None and grant.own_permit is not None:
        return own.breaker, grant.own_permit
    return lane.breaker, grant.permit


def _is_closed_for(lane: Lane, grant: Grant, alone: bool) -> bool:
    state, permit = _breaker_of(lane, grant, alone)
    return state.phase == "closed" and not breaker.is_late(state, permit)


def _with_latency(
    policy: InForce,
    lane: Lane,
    latency_ms: int,
    held_ms: int,
    in_flight: int,
) -> Lane:
    """Learn from a call how many calls may be in flight."""
    limit = concurrency.answered(
        policy.max_in_flight,
        lane.concurrency,
        latency_ms,
        held_ms,
        in_flight,
        policy.rate.rate_per_s,
    )
    return msgspec.structs.replace(lane, concurrency=limit)


def _with_verdict(
    policy: InForce,
    lane: Lane,
    grant: Grant,
    failure: str,
    latency_ms: int,
    now_ms: int,
    rand: float,
) -> Lane:
    """Record a call.

    Health counts each call. Breaker and window ignore calls from before the breaker last opened,
    and the failures of a destination that fails alone, which count for a breaker of its own.
    """
    ok = not failure
    verdict = breaker.verdict(policy.breaker, not failure, latency_ms)
    health = window.record(
        window.FIVE_MINUTES,
        lane.health,
        now_ms,
        ok,
        verdict == "slow",
        latency_ms,
    )
    alone = _fails_alone(lane, grant, ok, now_ms)
    if grant.destination.alias in lane.destinations:
        lane = _with_own_verdict(policy, lane, grant, failure, verdict, alone, now_ms, rand)
    if alone:
        freed = breaker.release_probe(lane.breaker, grant.permit)
        return msgspec.structs.replace(lane, breaker=freed, health=health)
    if failure:
        outage = breaker.record_failure(lane.outage, failure, lane.breaker.cause, now_ms)
        lane = msgspec.structs.replace(lane, outage=outage)
    if breaker.is_late(lane.breaker, grant.permit):
        return msgspec.structs.replace(lane, health=health)
    seen = window.record(window.LAST_MINUTE, lane.window, now_ms, ok, verdict == "slow")
    totals = partial(window.totals, window.LAST_MINUTE, seen, now_ms)
    mode = mode_of(policy, lane)
    after = breaker.on_result(
        policy.breaker,
        lane.breaker,
        grant.permit,
        verdict,
        totals,
        now_ms,
        rand,
        mode,
    )
    closed_now = after.phase == "closed" and lane.breaker.phase != "closed"
    return msgspec.structs.replace(
        lane,
        breaker=after,
        window=window.Window() if closed_now else seen,
        health=health,
    )


def _fails_alone(lane: Lane, grant: Grant, ok: bool, now_ms: int) -> bool:
    """Return True for a failed call of a destination if no other destination fails."""
    alias = grant.destination.alias
    return (
        not ok
        and alias in lane.destinations
        and destination_health.fails_alone(lane.failing, alias, now_ms)
    )


def _with_own_verdict(
    policy: InForce,
    lane: Lane,
    grant: Grant,
    failure: str,
    verdict: breaker.CallVerdict,
    alone: bool,
    now_ms: int,
    rand: float,
) -> Lane:
    """Record a call in the health of its destination."""
    alias = grant.destination.alias
    after = destination_health.recorded(
        policy.breaker,
        lane.destinations[alias],
        grant.own_permit,
        now_ms,
        rand,
        mode_of(policy, lane),
        failure=failure,
        slow=verdict == "slow",
        alone=alone,
    )
    failing = destination_health.noted(lane.failing, alias, not failure, now_ms)
    return with_destination(msgspec.structs.replace(lane, failing=failing), alias, after)


def _without_verdict(lane: Lane, grant: Grant, now_ms: int, keep_probe: bool = False) -> Lane:
    """Give probe and reservation back: the call cost nothing and shows nothing of Clay's health."""
    freed = breaker.release_probe(lane.breaker, grant.permit)
    lane = _refunded(
        lane if freed is lane.breaker else msgspec.structs.replace(lane, breaker=freed),
        grant,
    )
    own = lane.destinations.get(grant.destination.alias)
    if own is not None and grant.own_permit is not None:
        own = destination_health.released(own, grant.own_permit)
        lane = with_destination(lane, grant.destination.alias, own)
    return lane if keep_probe else _with_probe_released(lane, grant, now_ms)


def _refunded(lane: Lane, grant: Grant) -> Lane:
    return msgspec.structs.replace(
        lane,
        budget=budget.settle(lane.budget, grant.reservation, Cost()),
    )


def _with_probe_released(lane: Lane, grant: Grant, now_ms: int) -> Lane:
    if lane.suspension is None or grant.suspension_probe is None:
        return lane
    return msgspec.structs.replace(
        lane,
        suspension=suspension.release_probe(lane.suspension, grant.suspension_probe, now_ms),
    )


def _denial_text(destination: Destination, outcome: Denied) -> str:
    """Return the text for a refused call. For a webhook it names the variable of the token."""
    if destination.kind == "routine":
        return f"destination {destination.alias}: {outcome.text}"
    token = f"token: {destination.token_env}" if destination.token_env else "no token"
    return f"destination {destination.alias} ({token}): {outcome.text}"


def _webhook_text(lane: Lane, grant: Grant, outcome: WebhookOut) -> str:
    """Return the text for a webhook or routine that takes no leads.

    The count of submissions shows whether something else may have filled the webhook.
    """
    alias = grant.destination.alias
    refusing = f"routine {grant.webhook_id} of {alias} takes no leads"
    if grant.destination.kind != "routine":
        counted = count(quota.of(lane.quota, grant.webhook_id).count, "submission")
        refusing = f"webhook {grant.webhook_id} of {alias} takes no leads ({counted} counted here)"
    return f"{refusing}: {outcome.text}; a probe tries it again now and then"
