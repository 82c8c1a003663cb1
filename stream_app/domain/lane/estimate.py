"""The cost of a lead of a destination, learned from callbacks, for forecasts and quotes.

A budget never relies on it: it reserves the destination's ceiling, so that a cap is hard.
"""

import msgspec

from stream_app.domain.lane.budget import Cost

_SLOWEST = 0.02  # share of the newest lead once many are known: about the last hundred count
_PRIOR = 5  # the configuration's estimate weighs as much as so many leads


class Estimate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The mean cost of a lead, in fractions of a credit and of an Action. `leads`: how many it was learned from."""

    credits: float
    actions: float
    leads: int = 0


def first(configured: Cost) -> Estimate:
    """Return the estimate before anything is known."""
    return Estimate(float(configured.credits), float(configured.actions))


def learn(state: Estimate, actual: Cost, ceiling: Cost) -> Estimate:
    """Return the estimate after one more lead. An implausible cost counts as 0 or as the ceiling."""
    share = max(_SLOWEST, 1 / (state.leads + 1 + _PRIOR))
    credits_more = min(max(0, actual.credits), ceiling.credits) - state.credits
    actions_more = min(max(0, actual.actions), ceiling.actions) - state.actions
    return Estimate(state.credits + share * credits_more, state.actions + share * actions_more, state.leads + 1)
