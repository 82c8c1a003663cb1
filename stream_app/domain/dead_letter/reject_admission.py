"""Admission of a record that becomes a dead letter without being sent."""

from __future__ import annotations

import msgspec

from stream_app.domain.lane import flood_guard, suspension
from stream_app.domain.lane.bounds import Wait
from stream_app.domain.lane.breaker import Permit
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import Grant, Held, Lane
from stream_app.domain.policy import Destination, Workspace, in_force


def admit_dead_letter(
    policy: Workspace, lane: Lane, there: Destination, now_ms: int, boot_ms: int, waits: bool
) -> tuple[Lane, Grant | Held]:
    """Return a grant that reserves nothing. While a flood of dead letters suspends the lane, only probes get one.

    Keep the returned lane whatever the answer is.

    Args:
        policy: The configuration of the workspace.
        lane: Its lane.
        there: The destination. It only names the lane.
        now_ms: The time, epoch ms.
        boot_ms: The time on the monotonic clock, ms.
        waits: True if the record may be held.
    """
    grant = Grant(there, Reservation("", "", 0, 0), "", Permit(lane.breaker.epoch), None, boot_ms)
    if not waits or lane.suspension is None or lane.suspension.reason != flood_guard.REASON:
        return lane, grant
    stopped, answer = suspension.permit(in_force(policy, lane.changes).suspension, lane.suspension, now_ms)
    lane = msgspec.structs.replace(lane, suspension=stopped)
    if isinstance(answer, Wait):
        return lane, Held(stopped.reason, stopped.text, answer.until_ms)
    return lane, msgspec.structs.replace(grant, probe=answer)
