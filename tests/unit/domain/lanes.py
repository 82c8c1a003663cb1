"""Leads that a lane sends."""

from stream_app.domain.lane.admission import Grant, decide
from stream_app.domain.lane.lane import Lane
from stream_app.domain.plan import Destination, Workspace
from tests.support.narrow import of_type


def granted(
    policy: Workspace,
    lane: Lane,
    destination: Destination,
    now_ms: int,
) -> tuple[Lane, Grant]:
    """The lane after it has let a lead go, and what it gave the lead."""
    lane, entry = decide(lane.in_force(policy), lane, destination, now_ms, 0)
    return lane, of_type(Grant, entry)
