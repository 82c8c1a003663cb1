"""What the end of a POST means for its lead, as its lane sees it."""

from __future__ import annotations

import msgspec

from stream_app.domain.lane import budget


class Settlement(msgspec.Struct, frozen=True):
    """What a settled POST means for its lead.

    counts  its failure may be the lead's (an attempt): the breaker is neither open nor probing.
    run     how often the lane has failed in a row, with this one. alone: no other lead of the lane waits or is sent.
    wait_until_ms  the lane sends nothing before. text: words for the lead's event. spent: what was booked for it.
    """

    counts: bool
    wait_until_ms: int
    text: str = ""
    spent: budget.Reservation | None = None
    run: int = 0
    alone: bool = True

    def attempts(self, before: int) -> int:
        """The lead's failed attempts with this one.

        No outage makes dead letters: a failure in a run of others' is the beginning of one, and a failure in a run of
        the lead's own may be, as long as others are there to tell.
        """
        return before + (self.counts and self.run <= (before + 1 if self.alone else 1))
