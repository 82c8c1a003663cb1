"""Clay's balance of a workspace beside what was booked for its leads.

Clay says how many credits are left, and not what took them. So a reading has running totals of what
was booked, and between which limits the true cost of the booked leads lies. What two readings say
is in domain/books/bill.py.
"""

import msgspec

from stream_app.domain.limits.budget import Budget
from stream_app.domain.model.numbers import Real, TimeMs, Whole


class Booked(msgspec.Struct, frozen=True, omit_defaults=True):
    """Running totals of credits, from the beginning of the lane. Only their differences count.

    Attributes:
        credits: What was booked, with corrections.
        least: What Clay has taken at least for the leads that this was booked for.
        most: What it has taken at most.
        guessed: The part of `most` whose cost Clay did not say. It may be taken later than booked.
    """

    credits: Whole = 0
    least: Whole = 0
    most: Whole = 0
    guessed: Whole = 0

    def reported(self, reserved: int, cost: int) -> "Booked":
        """Add a lead whose cost Clay's answer says.

        A cost is booked in whole credits, rounded up, so the true one may be up to one below it.
        Only what was reserved counts as in flight before, so no more than that was surely taken.
        """
        least = max(0, min(reserved, cost) - 1)
        return Booked(self.credits + cost, self.least + least, self.most + cost, self.guessed)

    def unreported(self, reserved: int, cost: int) -> "Booked":
        """Add a lead whose cost nobody says: between nothing and what was reserved for it."""
        most = max(reserved, cost)
        return Booked(self.credits + cost, self.least, self.most + most, self.guessed + most)

    def corrected(self, before: int, cost: int) -> "Booked":
        """Replace what was booked for a lead. Clay may have taken it before, or only now."""
        most = self.most + max(before, cost)
        return Booked(self.credits + cost - before, self.least, most, self.guessed)

    def elsewhere(self, credits_: int) -> "Booked":
        """Add what an operator says was spent elsewhere, or (below 0) was returned by Clay."""
        least = self.least + min(0, credits_)
        return Booked(self.credits + credits_, least, self.most + max(0, credits_), self.guessed)


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """One reading of Clay's balance, with the books at that moment.

    Attributes:
        at_ms: When Clay was asked, epoch ms.
        credits: The credits that the workspace had left at Clay.
        booked: The totals before Clay was asked.
        open: What leads may have cost by then that is not in `booked`: at most what was reserved
            for those in flight.
        rises: How often the balance has risen from one reading to the next.
    """

    at_ms: TimeMs
    credits: Real
    booked: Booked = Booked()
    open: Whole = 0
    rises: Whole = 0


def balance_reading(
    last: Reading | None,
    at_ms: int,
    credits_: float,
    before: Booked,
    after: Booked,
    budget: Budget,
) -> Reading:
    """Return a reading.

    Args:
        last: The one before it.
        at_ms: When Clay was asked, epoch ms.
        credits_: Clay's answer.
        before: The totals when Clay was asked.
        after: The totals when the answer came. What was booked meanwhile may be in Clay's answer or
            not.
        budget: The budget when the answer came.
    """
    reserved = sum(day.credits_reserved for day in budget.days)
    rises = 0 if last is None else last.rises + (credits_ > last.credits)
    return Reading(at_ms, credits_, before, reserved + after.most - before.most, rises)
