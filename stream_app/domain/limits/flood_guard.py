"""The flood guard: many dead letters in a row have a cause outside the leads. It suspends the lane.

Examples: a column was renamed in Clay, or a producer sends wrong fields or a destination that does not exist. Without
the guard the whole topic would end in `leads.dlq`, and each lead would have to be replayed from there.
"""

from typing import Annotated, Final

import msgspec

from stream_app.domain.limits.window import Totals
from stream_app.domain.model.ranges import Policy, Range, exact
from stream_app.domain.model.text import count

REASON: Final = "flood_guard"
"""The reason of the suspension."""
_MIN_LEADS: Final = 100


class FloodGuardPolicy(Policy, frozen=True):
    """When the lane is suspended.

    Attributes:
        run: Dead letters of one cause in a row.
        share: Share of dead letters among the leads that ended in the last minute, if these are 100 at least.
    """

    run: Annotated[int, Range(1, 1_000_000)] = 50
    share: Annotated[float, Range(0.01, 1)] = 0.5


class FloodGuard(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last dead letters: how many in a row had the same `cause` since Clay last accepted a lead."""

    cause: str = ""
    run: int = 0


def record_dead_letter(state: FloodGuard, cause: str) -> FloodGuard:
    """Return the state after one more dead letter."""
    return FloodGuard(cause, state.run + 1 if state.cause == cause else 1)


def verdict(policy: FloodGuardPolicy, state: FloodGuard, totals: Totals) -> str:
    """Return why the lane must be suspended; '' if it need not. `totals` include the last dead letter."""
    if state.run >= policy.run:
        return f"{count(state.run, 'lead')} in a row became dead letters for one cause ({state.cause})"
    ended = totals.success + totals.dead_letters
    if ended >= _MIN_LEADS and totals.dead_letters > exact(policy.share) * ended:
        return f"{totals.dead_letters} of the last {ended} leads became dead letters (the last: {state.cause})"
    return ""
