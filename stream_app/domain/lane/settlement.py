"""What the end of a POST means for its lead."""

from __future__ import annotations

import msgspec

from stream_app.domain.lane import budget


class Settlement(msgspec.Struct, frozen=True):
    """What a settled POST means for its lead.

    Attributes:
        counts: True if the failure may be the lead's own: the breaker is neither open nor probing.
        wait_until_ms: The lane sends nothing before, epoch ms.
        text: For the lead's event.
        spent: What was booked for the lead.
        run: Failures of the lane in a row, this one included.
        alone: True if no other lead of the lane waits or is in flight.
    """

    counts: bool
    wait_until_ms: int
    text: str = ""
    spent: budget.Reservation | None = None
    run: int = 0
    alone: bool = True

    def attempts(self, before: int) -> int:
        """Return the lead's failed attempts, this one included.

        An outage makes no dead letters. A failure within a run of other leads' failures is the start of an outage. A
        failure within a run of the lead's own may be one too, as long as other leads can show the difference.
        """
        return before + (self.counts and self.run <= (before + 1 if self.alone else 1))
