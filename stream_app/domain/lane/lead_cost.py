"""Corrects the cost of one lead: without a callback, its ceiling was booked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from stream_app.domain.delivery.state_machine import SETTLED, Delivery, delivery_key, forced_key, lead_of
from stream_app.domain.lane.budget import Cost, Reservation, reviewed, unbook
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane_messages import Command
from stream_app.domain.lead.identity import row_id
from stream_app.domain.lead.resolve import trace_of
from stream_app.domain.messages import StatusEvent
from stream_app.domain.policy import Plan, Workspace, in_force
from stream_app.domain.record import ConsumedRecord

Row = Callable[[bytes], bytes | None]

_json: Final = msgspec.json.Encoder()
_row: Final = msgspec.json.Decoder(Delivery)
_Amount = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class LeadCost(msgspec.Struct, frozen=True):
    """Arguments of the command. A missing amount stays as booked.

    `destination` is needed only if the lead went to several.
    """

    lead_id: Annotated[str, msgspec.Meta(min_length=1, max_length=1_024)]
    credits: _Amount | None = None
    actions: _Amount | None = None
    destination: str = ""


class Settled(msgspec.Struct, frozen=True):
    """The lane, the row and the event of one step; `text` says what was done."""

    lane: Lane
    row: tuple[bytes, bytes]
    event: StatusEvent
    text: str


def is_open(row: Delivery) -> bool:
    """Return True if a cost is booked for the lead that neither Clay nor an operator has confirmed."""
    booked = row.booked
    if booked is None or booked.known or row.state in SETTLED:
        return False
    return bool(booked.credits or booked.actions)


def cost_rows(plan: Plan, row: Row, command: Command) -> tuple[bytes, ...]:
    """Return the possible row keys of the lead that a command corrects."""
    lead_id = command.args.get("lead_id")
    if command.kind != "correct" or not isinstance(lead_id, str):
        return ()
    name, keys = command.workspace, list[bytes]()
    for destination in plan.destinations_of(name):
        lead = (name, destination.alias, row_id(lead_id))
        keys.append(delivery_key(*lead))
        forced = row(forced_key(*lead))
        keys += [forced] if forced is not None else []
    return tuple(keys)


def settle_lead(
    plan: Plan,
    policy: Workspace,
    lane: Lane,
    row: Row,
    command: Command,
    what: LeadCost,
    consumed: ConsumedRecord,
    now_ms: int,
) -> Settled | str:
    """Replace what is booked for the lead by its actual cost, or return why not, in words."""
    if what.credits is None and what.actions is None:
        return "nothing to correct was named: give credits, actions, or both"
    found = [(key, _row.decode(raw)) for key in cost_rows(plan, row, command) if (raw := row(key)) is not None]
    if what.destination:
        found = [(key, each) for key, each in found if lead_of(key)[1] == what.destination]
    if not found:
        return "no such lead is known here (any more)"
    booked = [(key, each) for key, each in found if each.booked is not None and each.reservation is None]
    if not booked:
        if any(each.reservation is not None for _, each in found):
            return "Clay may still call back about this lead: what it did cost is booked then"
        return (
            "what this lead did cost is known: correct the lane without --lead by what Clay charged more, or (below 0) "
            "gave back"
        )
    aliases = sorted({lead_of(key)[1] for key, _ in booked})
    if len(aliases) > 1:
        return f"the lead went to {', '.join(aliases)}: say which destination"
    key, mine = min(booked, key=lambda each: (not is_open(each[1]), -each[1].at_ms))
    before = mine.booked or Reservation("", "", 0, 0)
    credits_ = before.credits if what.credits is None else what.credits
    actions = before.actions if what.actions is None else what.actions
    lane, now, more = _corrected(policy, lane, before, Cost(credits_, actions), now_ms)
    lead_id = lead_of(key)[2]
    text = (
        f"{before.credits} credits and {before.actions} actions were booked, now it is {credits_} and {actions}, in "
        f"the budget of {before.day}"
    )
    event = StatusEvent(
        id=f"{consumed.record_id}#1",
        lead_id=lead_id,
        status="cost_corrected",
        seq=1,
        at_ms=now_ms,
        origin=consumed.record_id,
        workspace=command.workspace,
        destination=aliases[0],
        reason=command.id,
        text=text,
        credits=more.credits,
        actions=more.actions,
        day=more.day,
        month=more.month,
        trace_id=trace_of(consumed.record_id),
        app=plan.app,
    )
    changed = msgspec.structs.replace(mine, booked=now)
    return Settled(lane, (key, _json.encode(changed)), event, f"{lead_id}: {text}")


def _corrected(
    policy: Workspace, lane: Lane, booked: Reservation, cost: Cost, now_ms: int
) -> tuple[Lane, Reservation, Reservation]:
    """Book the cost of a lead that an operator confirmed, instead of what was booked without a callback.

    Returns:
        The lane, what is booked for the lead now, and the difference to before.
    """
    now = msgspec.structs.replace(booked, credits=cost.credits, actions=cost.actions, known=True)
    more = Reservation(booked.day, booked.month, cost.credits - booked.credits, cost.actions - booked.actions)
    after = unbook(lane.budget, msgspec.structs.replace(more, credits=-more.credits, actions=-more.actions))
    after = reviewed(in_force(policy, lane.changes).budget, after, now_ms)
    return msgspec.structs.replace(lane, budget=after), now, more
