"""Settles one lead as an operator says: it is at Clay at a cost, not at Clay, or given up.

Before that, the ceiling of a lead without a callback was booked. A parked lead that is at Clay or
given up no longer waits for a person. One that is not at Clay stays parked until it is sent.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from stream_app.domain.commands import Command, Resolve
from stream_app.domain.delivery.recorder import event_of
from stream_app.domain.delivery.state_machine import (
    Delivery,
    Reason,
    delivery_key,
    forced_key,
    lead_of,
    moved,
    open_costs,
    unreported,
)
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.identity import row_id
from stream_app.domain.limits.budget import reviewed, unbook
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord, trace_of
from stream_app.domain.model.text import count
from stream_app.domain.plan import Plan

RowLookup = Callable[[bytes], bytes | None]
_json: Final = msgspec.json.Encoder()
_row: Final = msgspec.json.Decoder(Delivery)
_STILL_PARKED: Final = "it is still parked, and can be sent"


class Settled(msgspec.Struct, frozen=True):
    """The lane, the row and the event of one step, and in words what was done."""

    lane: Lane
    row: tuple[bytes, bytes]
    event: StatusEvent
    text: str


def resolved_rows(plan: Plan, row: RowLookup, command: Command) -> tuple[bytes, ...]:
    """Return the possible row keys of the lead that a command settles."""
    lead_id = command.args.get("lead_id")
    return (
        rows_of_lead(plan, row, command.workspace, lead_id)
        if command.kind == "resolve" and lead_id
        else ()
    )


def rows_of_lead(plan: Plan, row: RowLookup, name: str, lead_id: object) -> tuple[bytes, ...]:
    """Return the possible row keys of a lead of a workspace."""
    if not isinstance(lead_id, str):
        return ()
    keys = list[bytes]()
    for destination in plan.destinations_of(name):
        lead = (name, destination.alias, row_id(lead_id))
        keys.append(delivery_key(*lead))
        forced = row(forced_key(*lead))
        keys += [forced] if forced is not None else []
    return tuple(keys)


def settle_lead(
    plan: Plan,
    lane: Lane,
    row: RowLookup,
    command: Command,
    what: Resolve,
    consumed: ConsumedRecord,
    now_ms: int,
) -> Settled | str:
    """Settle the lead that a command names.

    Returns:
        The step, or in words why there is none.
    """
    chosen = _chosen(plan, row, command, what)
    if isinstance(chosen, str):
        return chosen
    key, mine = chosen
    if what.give_up:
        why = f": {command.why}" if command.why else ""
        return given_up(
            plan,
            lane,
            key,
            mine,
            "given_up",
            f"given up by {command.who}{why}",
            now_ms,
        )
    if what.not_at_clay and not open_costs(mine):
        return _not_booked(plan, lane, key, mine, command, consumed, now_ms)
    return _cost_settled(plan, lane, key, mine, command, what, consumed, now_ms)


def _chosen(
    plan: Plan,
    row: RowLookup,
    command: Command,
    what: Resolve,
) -> tuple[bytes, Delivery] | str:
    """Return key and row of the lead that a command names, or in words why it settles none.

    A parked lead comes before one that is not, then one whose cost nobody has said, and then the
    newest one.
    """
    rows = [
        (key, _row.decode(raw))
        for key in resolved_rows(plan, row, command)
        if (raw := row(key)) is not None
    ]
    if what.destination:
        rows = [(key, delivery) for key, delivery in rows if lead_of(key)[1] == what.destination]
    if not rows:
        return "no such lead is known here (any more): check its id and its destination"
    fits = _is_booked if what.at_clay else _is_parked
    fitting = [(key, delivery) for key, delivery in rows if fits(delivery)]
    if not fitting:
        return _refusal(what, [delivery for _, delivery in rows])
    aliases = sorted({lead_of(key)[1] for key, _ in fitting})
    if len(aliases) > 1:
        return f"the lead went to {', '.join(aliases)}: say which destination"
    return min(
        fitting,
        key=lambda item: (not _is_parked(item[1]), not open_costs(item[1]), -item[1].at_ms),
    )


def _cost_settled(
    plan: Plan,
    lane: Lane,
    key: bytes,
    mine: Delivery,
    command: Command,
    what: Resolve,
    consumed: ConsumedRecord,
    now_ms: int,
) -> Settled:
    """Book what the lead cost, and end it if it is parked and at Clay.

    What was booked for several POSTs of one day is settled together. Another day needs another
    command, because an event books in one day only.
    """
    costs = open_costs(mine)
    before = costs[-1] if costs else mine.booked
    assert before is not None, "a lead without a booked cost is not chosen"
    together = [cost for cost in costs if (cost.day, cost.month) == (before.day, before.month)] or [
        before,
    ]
    before = replace(
        before,
        credits=sum(cost.credits for cost in together),
        actions=sum(cost.actions for cost in together),
    )
    now = replace(
        before,
        credits=_true_cost(what, what.credits, before.credits),
        actions=_true_cost(what, what.actions, before.actions),
        known=True,
        estimated=None,
    )
    more = replace(now, credits=now.credits - before.credits, actions=now.actions - before.actions)
    corrected = unbook(lane.budget, replace(more, credits=-more.credits, actions=-more.actions))
    rules = lane.in_force(plan.workspaces[command.workspace]).budget
    lane = replace(
        lane,
        budget=reviewed(rules, corrected, now_ms),
        paid=lane.paid.corrected(before.credits, now.credits),
    )
    text = (
        f"{count(before.credits, 'credit')} and {count(before.actions, 'action')} were booked, "
        "now it is "
        f"{now.credits} and "
        f"{now.actions}, in the budget of {before.day}"
    )
    others = tuple(
        cost for cost in mine.unsettled if (cost.day, cost.month) != (before.day, before.month)
    )
    changes: dict[str, object] = {"unsettled": others}
    # Otherwise Clay has said what the last POST cost, and that stays booked.
    if not costs or costs[-1] is mine.booked:
        changes["booked"] = now
    if what.not_at_clay:
        text += f", because Clay has no such row; {_STILL_PARKED}"
    if _is_parked(mine) and what.at_clay:
        ended = moved(mine, "confirmed", now_ms, **changes, final=True)
        about = ended
    else:
        ended = replace(mine, **changes)
        about = _correction(mine, consumed, now_ms)
    event = event_of(plan, about, *lead_of(key), Reason(command.id, text))
    event = replace(
        event,
        credits=more.credits,
        actions=more.actions,
        day=more.day,
        month=more.month,
        estimated_credits=unreported(ended).credits - unreported(mine).credits,
        estimated_actions=unreported(ended).actions - unreported(mine).actions,
    )
    return Settled(lane, (key, _json.encode(ended)), event, f"{event.lead_id}: {text}")


def _true_cost(what: Resolve, amount: int | None, before: int) -> int:
    if what.not_at_clay:
        return 0
    return before if amount is None else amount


def _not_booked(
    plan: Plan,
    lane: Lane,
    key: bytes,
    row: Delivery,
    command: Command,
    consumed: ConsumedRecord,
    now_ms: int,
) -> Settled:
    """Return the step for a lead without booked costs that an operator says is not at Clay."""
    text = f"nothing is booked for it; {_STILL_PARKED}"
    event = event_of(
        plan,
        _correction(row, consumed, now_ms),
        *lead_of(key),
        Reason(command.id, text),
    )
    return Settled(lane, (key, _json.encode(row)), event, f"{event.lead_id}: {text}")


def _correction(row: Delivery, consumed: ConsumedRecord, now_ms: int) -> Delivery:
    """Return the state that the event of a command tells if the command does not move the lead.

    The event is part of the history of the command, and not of the lead.
    """
    origin = consumed.record_id
    return Delivery(row.version, "cost_corrected", origin, 1, now_ms, now_ms, trace_of(origin))


def given_up(
    plan: Plan,
    lane: Lane,
    key: bytes,
    row: Delivery,
    reason: str,
    text: str,
    now_ms: int,
) -> Settled:
    """Return the step that ends a parked lead, because it is not to be sent any more."""
    ended = moved(row, "suppressed", now_ms, final=True)
    event = event_of(plan, ended, *lead_of(key), Reason(reason, text))
    return Settled(lane, (key, _json.encode(ended)), event, f"{event.lead_id}: {text}")


def _is_booked(row: Delivery) -> bool:
    return row.reservation is None and (row.booked is not None or bool(row.unsettled))


def _is_parked(row: Delivery) -> bool:
    return row.state == "parked"


def _refusal(what: Resolve, rows: list[Delivery]) -> str:
    if what.give_up:
        return "this lead is not parked, so there is nothing to give up"
    if what.not_at_clay:
        return "this lead is not parked: nothing is to be sent"
    if any(row.reservation is not None for row in rows):
        return "Clay may still call back about this lead: what it cost is booked then"
    if any(map(_is_parked, rows)):
        return "Clay never had this lead: send it, or give it up"
    return (
        "what this lead cost is known: correct the lane (`stream-app lanes correct`) by what "
        "Clay charged more, or "
        "(below 0) gave back"
    )
