"""The flood guard: when leads become dead letters one after the other, the cause is not the leads.

A column was renamed in Clay, a producer sends the wrong fields or to a destination that does not exist: then the lane
stops, instead of pouring its topic into `leads.dlq`, whence each lead would have to be fetched back.
"""

from typing import Final

import msgspec

from stream_app.domain.lane.bounds import exact, out_of_range
from stream_app.domain.lane.health import Totals
from stream_app.domain.plural import count

REASON: Final = "flood"
"""Of the lane's stop."""


class FloodGuardPolicy(msgspec.Struct, frozen=True):
    """The lane stops after `run` dead letters of one cause in a row, or when from `min_leads` on more than the part
    `share` of the leads that ended in the window are dead letters.
    """

    run: int = 50
    share: float = 0.5
    min_leads: int = 100


class FloodGuard(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last dead letters, as many as had the same `cause` since the last lead that Clay took."""

    cause: str = ""
    run: int = 0


def problems(policy: FloodGuardPolicy) -> list[str]:
    """What is wrong with the policy, one line a key."""
    return out_of_range(policy, run=(1, 1_000_000), share=(0.01, 1), min_leads=(1, 1_000_000))


def letter(state: FloodGuard, cause: str) -> FloodGuard:
    """One dead letter more."""
    return FloodGuard(cause, state.run + 1 if state.cause == cause else 1)


def verdict(policy: FloodGuardPolicy, state: FloodGuard, totals: Totals) -> str:
    """Why the lane has to stop, in words; '' when it need not. `totals` of the window include the last letter."""
    if state.run >= policy.run:
        return f"{count(state.run, 'lead')} in a row became dead letters for one cause ({state.cause})"
    ended = totals.success + totals.letters
    if ended >= policy.min_leads and totals.letters > exact(policy.share) * ended:
        return f"{totals.letters} of the last {ended} leads became dead letters (the last: {state.cause})"
    return ""
