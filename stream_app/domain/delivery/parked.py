"""Settles one lead as an operator says: it is at Clay and cost so much, or it is given up.

Without a callback, the ceiling of a lead was booked. A lead that is parked leaves the parked ones with it.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from stream_app.domain.commands import Command, Resolve
from stream_app.domain.delivery.recorder import event_of
from stream_app.domain.delivery.state_machine import SETTLED, Delivery, Reason, delivery_key, forced_key, lead_of, step
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.identity import row_id
from stream_app.domain.limits.budget import Reservation, reviewed, unbook
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord, trace_of
from stream_app.domain.plan import Plan, in_force

Row = Callable[[bytes], bytes | None]
_json: Final = msgspec.json.Encoder()
_row: Final = msgspec.json.Decoder(Delivery)


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


def resolved_rows(plan: Plan, row: Row, command: Command) -> tuple[bytes, ...]:
    """Return the possible row keys of the lead that a command settles."""
    lead_id = command.args.get("lead_id")
    return rows_of_lead(plan, row, command.workspace, lead_id) if command.kind == "resolve" and lead_id else ()


def rows_of_lead(plan: Plan, row: Row, name: str, lead_id: object) -> tuple[bytes, ...]:
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
    plan: Plan, lane: Lane, row: Row, command: Command, what: Resolve, consumed: ConsumedRecord, now_ms: int
) -> Settled | str:
    """Book what the lead cost, and end it if it is parked; or return why not, in words."""
    rows = [(key, _row.decode(raw)) for key in resolved_rows(plan, row, command) if (raw := row(key)) is not None]
    if what.destination:
        rows = [(key, delivery) for key, delivery in rows if lead_of(key)[1] == what.destination]
    if not rows:
        return "no such lead is known here (any more)"
    fits = _is_parked if what.give_up else _is_booked
    chosen = [(key, delivery) for key, delivery in rows if fits(delivery)]
    if not chosen:
        return _refusal(what, [delivery for _, delivery in rows])
    aliases = sorted({lead_of(key)[1] for key, _ in chosen})
    if len(aliases) > 1:
        return f"the lead went to {', '.join(aliases)}: say which destination"
    key, mine = min(chosen, key=lambda item: (not _is_parked(item[1]), not is_open(item[1]), -item[1].at_ms))
    if what.give_up:
        why = f": {command.why}" if command.why else ""
        return given_up(plan, lane, key, mine, "given_up", f"given up by {command.who}{why}", now_ms)
    before = mine.booked
    assert before is not None, "a lead without a booked cost is not chosen"
    credits_ = before.credits if what.credits is None else what.credits
    actions = before.actions if what.actions is None else what.actions
    now = msgspec.structs.replace(before, credits=credits_, actions=actions, known=True)
    more = Reservation(before.day, before.month, credits_ - before.credits, actions - before.actions)
    corrected = unbook(lane.budget, msgspec.structs.replace(more, credits=-more.credits, actions=-more.actions))
    rules = in_force(plan.workspaces[command.workspace], lane.changes).budget
    lane = msgspec.structs.replace(lane, budget=reviewed(rules, corrected, now_ms))
    text = (
        f"{before.credits} credits and {before.actions} actions were booked, now it is {credits_} and {actions}, in "
        f"the budget of {before.day}"
    )
    if _is_parked(mine):
        ended = about = step(mine, "confirmed", now_ms, booked=now, final=True)
    else:
        ended, origin = msgspec.structs.replace(mine, booked=now), consumed.record_id
        about = Delivery(mine.version, "cost_corrected", origin, 1, now_ms, now_ms, trace_of(origin))
    event = event_of(plan, about, *lead_of(key), Reason(command.id, text))
    event = msgspec.structs.replace(event, credits=more.credits, actions=more.actions, day=more.day, month=more.month)
    return Settled(lane, (key, _json.encode(ended)), event, f"{event.lead_id}: {text}")


def given_up(plan: Plan, lane: Lane, key: bytes, row: Delivery, reason: str, text: str, now_ms: int) -> Settled:
    """Return the step that ends a parked lead, because it is not to be sent any more."""
    ended = step(row, "suppressed", now_ms, final=True)
    event = event_of(plan, ended, *lead_of(key), Reason(reason, text))
    return Settled(lane, (key, _json.encode(ended)), event, f"{event.lead_id}: {text}")


def _is_booked(row: Delivery) -> bool:
    return row.booked is not None and row.reservation is None


def _is_parked(row: Delivery) -> bool:
    return row.state == "parked"


def _refusal(what: Resolve, rows: list[Delivery]) -> str:
    if what.give_up:
        return "this lead is not parked, so there is nothing to give up"
    if any(row.reservation is not None for row in rows):
        return "Clay may still call back about this lead: what it cost is booked then"
    if any(map(_is_parked, rows)):
        return "Clay never had this lead: send it, or give it up"
    return (
        "what this lead cost is known: correct the lane (`stream-app lanes correct`) by what Clay charged more, or "
        "(below 0) gave back"
    )
