"""A record that becomes a dead letter without being sent, for it is no lead or none that may be: who lets it by."""

from __future__ import annotations

import msgspec

from stream_app.domain.lane import flood_guard as flood
from stream_app.domain.lane import suspension as stop
from stream_app.domain.lane.bounds import Wait
from stream_app.domain.lane.breaker import Permit
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import Grant, Held, Lane
from stream_app.domain.policy import Destination, Workspace, in_force


def let_by(
    policy: Workspace, lane: Lane, there: Destination, now_ms: int, boot_ms: int, waits: bool
) -> tuple[Lane, Grant | Held]:
    """An entry that holds nothing of the lane; while a flood of dead letters stops it, one now and then, as its probe.

    The lane is to be kept whatever the answer. `there` only says whose lane it is; `waits`: it may be held.
    """
    entry = Grant(there, Reservation("", "", 0, 0), "", Permit(lane.breaker.epoch), None, boot_ms)
    if not waits or lane.stop is None or lane.stop.reason != flood.REASON:
        return lane, entry
    stopped, answer = stop.permit(in_force(policy, lane.changes).stop, lane.stop, now_ms)
    lane = msgspec.structs.replace(lane, stop=stopped)
    if isinstance(answer, Wait):
        return lane, Held(stopped.reason, stopped.text, answer.until_ms)
    return lane, msgspec.structs.replace(entry, probe=answer)
