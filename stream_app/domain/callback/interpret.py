"""Interprets a callback: which lead it is about, what the lead cost, and the result to publish."""

from contextlib import suppress
from typing import Final

import msgspec

from stream_app.domain.callback.body import MAX_COST
from stream_app.domain.delivery.state_machine import Delivery, Reason
from stream_app.domain.lane.holds import CREDITS_OUT, OVER_CEILING, reason_of
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.settlement import book_callback, probe_succeeded
from stream_app.domain.lead.identity import is_plain_id
from stream_app.domain.limits import budget, callback_health, suspension, yield_health
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.budget import Cost, Reservation
from stream_app.domain.limits.callback_health import causes
from stream_app.domain.limits.meters import meters
from stream_app.domain.model.messages import (
    AnsweredColumns,
    Callback,
    Meter,
    Result,
    RunNotification,
    Scalar,
    Status,
)
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import decode
from stream_app.domain.plan import Destination, InForce, Plan

# Well below the topic's limit, so that no callback can block a partition.
_MAX_RESULT_BYTES: Final = 900_000
_decoder: Final = msgspec.json.Decoder(Callback)
_announcement_decoder: Final = msgspec.json.Decoder(RunNotification)
_json: Final = msgspec.json.Encoder()
WAITING: Final = frozenset[Status]({"accepted"})  # the state of a lead whose callback deadline runs

OVERDUE: Final = frozenset[Status]({"callback_overdue", "credits_exhausted_suspected"})
"""States of a lead whose deadline has passed and whose grace runs."""

UNANSWERED: Final = WAITING | OVERDUE
"""States of a lead that Clay has accepted, and whose answer has not come."""

PUBLISHED: Final = frozenset[Status]({"enriched", "partial"})
"""Answers that have a result."""


def read_callback(plan: Plan, consumed: ConsumedRecord) -> Callback | RunNotification | Reason:
    """Return the callback or the announcement of a run in a record.

    Or return why it cannot be about a lead of this partition.
    """
    read = _decoded(consumed.value)
    if read is None:
        return Reason(
            "unreadable",
            "not a callback as the gateway writes it: see schemas/callback.v1.json",
        )
    destination = plan.destination(read.workspace, read.destination)
    announces = isinstance(read, RunNotification)
    if (
        read.workspace not in plan.workspaces
        or destination is None
        or (announces and destination.kind != "routine")
    ):
        kind = "routine" if announces else "destination"
        return Reason(
            "unknown_destination",
            f"its workspace has no such {kind} in this configuration",
        )
    home = plan.home_of(read.workspace)
    if home != consumed.partition:
        return Reason(
            "wrong_partition",
            f"its workspace lives in partition {home}: check the pins of the gateway",
        )
    if isinstance(read, Callback) and not is_plain_id(read.lead_id):
        return Reason("unknown_lead", "no lead with this id was sent")
    return read


def _decoded(value: bytes | None) -> Callback | RunNotification | None:
    """Return what the gateway wrote; None if it did not write it. Most of it are callbacks."""
    with suppress(ValueError):
        return decode(_decoder, value)
    with suppress(ValueError):
        return decode(_announcement_decoder, value)
    return None


def answered_columns(destination: Destination, callback: Callback) -> AnsweredColumns:
    """Return which of the columns that the destination names in `yield` the answer has.

    An answer without a result has none of them, whatever else its body held: nothing was delivered.
    A text of spaces is no value.
    """
    delivered = callback.fields if callback.outcome in PUBLISHED else {}
    filled = tuple(name for name in destination.yield_ if _is_value(delivered.get(name)))
    return AnsweredColumns(filled, tuple(name for name in destination.yield_ if name not in filled))


def _is_value(value: Scalar) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def booked(
    policy: InForce,
    lane: Lane,
    row: Delivery,
    destination: Destination,
    callback: Callback,
    answer: AnsweredColumns,
    now_ms: int,
) -> tuple[Lane, Reservation | None, Reservation | None]:
    """Return the lane after a callback has told the cost of a lead.

    The lead's reservation is settled. If a cost was booked for the lead before, it is corrected.
    `answer`: `answered_columns` of the callback.

    Returns:
        The lane, the cost of the lead now, and the difference to what was booked before. Both costs
        are None if nothing was ever reserved for the lead.
    """
    reserved = row.reservation
    before = row.booked
    period = reserved or before  # its day and month
    usual = destination.estimate
    cost = Cost(
        _bounded(callback.credits, usual.credits),
        _bounded(callback.actions, usual.actions),
    )
    if period is None:
        return (
            _called_back(lane, row, cost, destination, policy, now_ms, callback, answer),
            None,
            None,
        )
    booked_now = Reservation(period.day, period.month, cost.credits, cost.actions)
    spent = booked_now
    paid = lane.paid.reported if callback.credits is not None else lane.paid.unreported
    totals = paid(period.credits, cost.credits)
    if reserved is None and before is not None:
        lane = msgspec.structs.replace(lane, budget=budget.unbook(lane.budget, before))
        totals = lane.paid.corrected(before.credits, cost.credits)
        reserved = msgspec.structs.replace(before, credits=0, actions=0)
        spent = Reservation(
            before.day,
            before.month,
            cost.credits - before.credits,
            cost.actions - before.actions,
        )
    lane = msgspec.structs.replace(lane, paid=totals)
    lane = book_callback(policy, lane, destination, reserved or period, cost, now_ms)
    lane = _called_back(lane, row, cost, destination, policy, now_ms, callback, answer)
    return lane, booked_now, spent


def _called_back(
    lane: Lane,
    row: Delivery,
    cost: Cost,
    destination: Destination,
    policy: InForce,
    now_ms: int,
    callback: Callback,
    answer: AnsweredColumns,
) -> Lane:
    """Record the callback of the destination.

    If it answers the probe of a suspension that waits for it, lift that.
    """
    health = callback_health.record_callback(lane.callback_health, destination.alias, now_ms)
    lane = msgspec.structs.replace(lane, callback_health=health)
    if row.state != "partial":  # the rest of an answer is no second one
        lane = _with_answer(policy, lane, row, destination, answer, cost, now_ms)
    stopped = lane.suspension
    if stopped is None or stopped.since_ms != row.probed_ms:
        return lane
    if reason_of(stopped.reason).lifted_by != "callback":
        return lane
    if stopped.reason == OVER_CEILING and cost.exceeds(destination.ceiling):
        return lane
    if stopped.reason == yield_health.YIELD_FELL and not yield_health.has_fallen_columns(
        lane.yields,
        destination.alias,
        answer,
    ):
        return lane
    if stopped.reason == CREDITS_OUT and callback.outcome == "enrich_error":
        return lane
    return probe_succeeded(policy, lane, destination.alias, now_ms)


def _with_answer(
    policy: InForce,
    lane: Lane,
    row: Delivery,
    destination: Destination,
    answer: AnsweredColumns,
    cost: Cost,
    now_ms: int,
) -> Lane:
    """Return the lane after an answer of Clay.

    A fall of the yield that it shows suspends the destination, if its configuration says so and
    nothing is suspended yet: a second suspension would hold all destinations.
    """
    if not destination.yield_:
        return lane
    yields, told = yield_health.record_answer(
        lane.yields,
        destination.alias,
        answer,
        row.list_id,
        cost.credits,
        now_ms,
    )
    lane = msgspec.structs.replace(lane, yields=yields)
    if not told or not destination.yield_suspends or lane.suspension is not None:
        return lane
    text = "; ".join(fall.text for fall in told)
    return _suspend(policy, lane, destination, yield_health.YIELD_FELL, text, now_ms)


def unsaid(callback: Callback) -> tuple[Meter, ...]:
    """Return the meters whose cost an answer does not say, so that the estimate is booked."""
    costs: dict[Meter, int | None] = {"credits": callback.credits, "actions": callback.actions}
    return tuple(meter for meter, cost in costs.items() if cost is None)


def _bounded(reported: int | None, estimated: int) -> int:
    return estimated if reported is None else min(max(0, reported), MAX_COST)


def result_of(
    plan: Plan,
    callback: Callback,
    row: Delivery,
    version: int,
    now_ms: int,
) -> Record | Reason:
    """Return the result as a record, or why it cannot be published. `row`: of its lead."""
    result = Result(
        lead_id=callback.lead_id,
        workspace=callback.workspace,
        destination=callback.destination,
        source="clay",
        version=version,
        at_ms=now_ms,
        age_s=max(0, now_ms - callback.at_ms) // 1000,
        fields=callback.fields,
        origin=row.origin,
        trace_id=row.trace_id,
        partial=callback.outcome == "partial",
        person=row.person,
        company=row.company,
        people=row.people,
    )
    value = _json.encode(result)
    if len(value) > _MAX_RESULT_BYTES:
        return Reason(
            "oversize",
            f"its result has {len(value)} bytes, more than {_MAX_RESULT_BYTES}",
        )
    key = f"{callback.workspace}/{callback.destination}/{callback.lead_id}".encode()
    return Record(plan.topics.enriched, key, value)


def open_run(row: Delivery) -> str:
    """Return the run whose results settle this lead; '' if it waits for no run that is known."""
    return row.run if row.state in UNANSWERED and not row.final else ""


def due_ms(row: Delivery, destination: Destination, lane: Lane) -> int:
    """Return when the deadline or grace of a lead in one of these states ends, epoch ms."""
    wait_s = (
        destination.callback_deadline_s if row.state in WAITING else destination.callback_grace_s
    )
    return (
        row.at_ms + int(wait_s * 1000) + callback_health.unowned_ms(lane.callback_health, row.at_ms)
    )


def unanswered(row: Delivery, destination: Destination, within: str) -> str:
    """Return what is missing of an accepted lead, in words.

    Args:
        row: The row of the lead.
        destination: Its destination.
        within: The time that has passed, such as "3600 s".
    """
    if destination.kind != "routine":
        return f"Clay accepted the lead and did not call back within {within}"
    if row.run:
        return f"Clay accepted the lead and its run did not finish within {within}"
    return (
        f"Clay accepted the lead and no result came within {within}: Clay has it, its run id was "
        "lost with the answer to its POST, so nobody can ask for the result"
    )


def overdue(policy: InForce, lane: Lane, destination: str, accepted_ms: int) -> tuple[Lane, bool]:
    """Count one more overdue lead.

    Returns:
        The lane, and True if the destination must now be suspended and reported.
    """
    health = callback_health.record_overdue(lane.callback_health, destination, accepted_ms)
    lane = msgspec.structs.replace(lane, callback_health=health)
    missing = callback_health.are_missing(policy.callback_health, health, destination)
    return lane, missing and not suspension.holds(lane.suspension, destination)


def why_missing(policy: InForce, lane: Lane, destination: Destination, now_ms: int) -> str:
    """Return why a destination may have stopped calling back, in words."""
    month = meters(policy.budget, lane.budget, now_ms)["credits_month"]
    pool = [quota.of(lane.quota, webhook_id) for webhook_id in destination.webhook_ids]
    return causes(
        lane.callback_health,
        destination.alias,
        sum(webhook.count for webhook in pool),
        month.spent,
        kind=destination.kind,
        keeps_rows=destination.lifetime > 0,
    )


def suspend_silent(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    text: str,
    now_ms: int,
) -> Lane:
    """Return the lane with this destination suspended because no callback comes."""
    lane = _suspend(policy, lane, destination, callback_health.NO_CALLBACKS, text, now_ms)
    health = callback_health.record_report(lane.callback_health, destination.alias, now_ms)
    return msgspec.structs.replace(lane, callback_health=health)


MAX_FAILED_IN_A_ROW: Final = 20
"""Failed leads of a destination in a row, after which the balance of its workspace is asked for."""


def suspend_without_credits(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    balance: float | None,
    now_ms: int,
) -> Lane:
    """Return the lane after too many failed leads in a row, with the balance of its workspace.

    A balance that pays for a lead says that something else fails: the lane goes on. Without credits
    the destination is suspended, because each lead would be given up as failed, and also if the
    balance cannot be read.
    """
    needed = destination.ceiling.credits
    if balance is not None and balance >= needed:
        return lane
    left = (
        "the balance of its workspace cannot be read"
        if balance is None
        else f"its workspace has {count(balance, 'credit')} left, and one lead may cost {needed}"
    )
    text = (
        f"{MAX_FAILED_IN_A_ROW} leads of {destination.alias} in a row have failed, and {left}: "
        "look at the failed leads and at the credits in Clay, top up, then resume the lane"
    )
    return _suspend(policy, lane, destination, CREDITS_OUT, text, now_ms)


def _suspend(
    policy: InForce,
    lane: Lane,
    destination: Destination,
    reason: str,
    text: str,
    now_ms: int,
) -> Lane:
    """Return the lane with this destination suspended.

    If another destination is suspended too, all are.
    """
    fresh = suspension.begin(
        policy.suspension,
        reason,
        text,
        now_ms,
        destination.alias,
        destination.setup_id,
        one_destination=True,
    )
    after = suspension.suspend(policy.suspension, lane.suspension, fresh)
    return msgspec.structs.replace(lane, suspension=after)
