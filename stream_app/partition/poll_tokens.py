"""The tokens that polls of runs take from the rates of their lanes, by turns with the leads.

Clay counts both requests towards one limit. While leads and polls wait for it, tokens go to them by
turns. So either of them has half of the rate, however much the other asks for.
"""

from collections.abc import Callable

from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.lane.admission import Poll, PollHeld, decide_poll
from stream_app.domain.limits import rate
from stream_app.domain.plan import Destination
from stream_app.partition.lanes import Lanes


@define(eq=False, repr=False)
class PollTokens:
    """Takes tokens of the lanes of one partition for polls.

    `_leads_wait` says of a workspace whether a lead of it would go if its lane had a token.
    `_admit_leads` has the leads of a workspace ask for admission again, once the caller has
    submitted its own step.
    """

    _lanes: Lanes
    _clock: Clock
    _leads_wait: Callable[[str], bool]
    _admit_leads: Callable[[str], None]
    # The lanes in which a poll waits for a token, and those in which it is the leads' turn.
    _waiting: set[str] = field(init=False, factory=set)
    _leads_turn: set[str] = field(init=False, factory=set)

    def take(self, destination: Destination, *, may_probe: bool = True) -> Poll | PollHeld:
        """Take a token to poll a run of this destination, or say why its lane gives none.

        `may_probe`: as in `decide_poll`.
        """
        name = destination.workspace
        now_ms = self._clock.now_ms()
        policy = self._lanes.policy(name)
        leads_wait = self._leads_wait(name)
        if name in self._leads_turn and leads_wait:
            self._waiting.add(name)
            after_ms = rate.interval_ms(policy.rate, self._lanes[name].rate)
            return PollHeld(now_ms + after_ms, for_token=True)
        self._lanes[name], answer = decide_poll(
            policy,
            self._lanes[name],
            destination,
            now_ms,
            may_probe=may_probe,
        )
        if isinstance(answer, Poll):
            self._leads_turn.add(name)
            self._waiting.discard(name)
            if leads_wait:
                self._admit_leads(name)
        elif answer.for_token:
            self._waiting.add(name)
        else:
            self._waiting.discard(name)
        return answer

    def are_waited_for(self, name: str) -> bool:
        """Return True if a poll of the lane waits for a token."""
        return name in self._waiting

    def come_first(self, name: str) -> bool:
        """Return True if the next token of the lane belongs to a poll that waits for it."""
        return name in self._waiting and name not in self._leads_turn

    def lead_went(self, name: str) -> None:
        """Note that a lead took a token of the lane, so that the next turn is a poll's."""
        self._leads_turn.discard(name)

    def end(self, name: str) -> None:
        """Note that no poll of the lane waits for a token."""
        if name in self._waiting:
            self._waiting.discard(name)
            self._admit_leads(name)

    def clear(self) -> None:
        """Forget all turns, as after a take-over."""
        self._waiting.clear()
        self._leads_turn.clear()
