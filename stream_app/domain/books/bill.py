"""Whether Clay's bill agrees with the books: what its balance fell by, and what was booked.

    taken by Clay = booked + drift

A drift alone is nothing wrong, because some costs are estimates and some leads are in flight. So it
is compared with what these can explain at most. What is left has another cause, which is named.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Final, Literal

import msgspec

from stream_app.domain.limits.balance import Reading
from stream_app.domain.model.text import count

_HOUR_MS: Final = 3_600_000
_DIGITS: Final = 4  # of sums of Clay's fractions, so that no binary rest of them counts
BillVerdict = Literal["agrees", "more", "less", "unknown"]
UNEXPLAINED: Final = frozenset[BillVerdict]({"more", "less"})
AGREES: Final = "agrees"
COMPARE_BY_HAND: Final = (
    "To have it read, name a key of Clay's Public API in api_key_env of the workspace. Without "
    "one, compare by hand: Clay shows the credits of each table and day under Settings, Usage, and "
    "the page Money of the board what was booked"
)
"""How to compare where no balance was read."""


class BilledDay(msgspec.Struct, frozen=True):
    """One day of a workspace, from its first reading to the first one of the next day.

    Attributes:
        day: The day, UTC.
        since_ms: The first reading, epoch ms.
        until_ms: The last reading, epoch ms.
        taken: By how many credits Clay's balance fell.
        booked: How many credits were booked.
        drift: `taken` without `booked`.
        least: The least that Clay can have taken for the leads that were booked or in flight.
        most: The most.
        unexplained: What estimates, roundings and leads in flight do not explain of the drift.
        verdict: `agrees`; `more`: Clay took more than they explain; `less`: it took less;
            `unknown`: nothing of the day can be compared.
        unknown_ms: How much of the time is not compared, because the balance rose: credits were
            added or returned, and Clay does not say how many.
        says: The verdict in words.
    """

    day: str
    since_ms: int
    until_ms: int
    taken: float
    booked: int
    drift: float
    least: int
    most: int
    unexplained: float
    verdict: BillVerdict
    unknown_ms: int
    says: str


def billed_days(readings: Sequence[Reading]) -> list[BilledDay]:
    """Return the days between these readings, the newest first.

    `readings` are of one workspace, in the order of their times. Comparing begins at the first one
    of which it is known what Clay may take later for leads that are booked already.
    """
    late = list(_late(readings))
    begin = next((number for number, amount in enumerate(late) if amount is not None), len(late))
    readings = readings[begin:]
    late = late[begin:]
    spans = [
        (day_of_reading(first.at_ms), number, _is_known(first, then))
        for number, (first, then) in enumerate(pairwise(readings))
    ]
    days = [
        _billed(readings, late, day, [(number, known) for _, number, known in of_day])
        for day, of_day in groupby(spans, key=lambda span: span[0])
    ]
    return days[::-1]


def _is_known(first: Reading, then: Reading) -> bool:
    """Return True if the balance fell by what was taken, and the totals are of one history."""
    return (
        then.rises == first.rises
        and then.credits <= first.credits
        and then.booked.most >= first.booked.most
    )


def _billed(
    readings: Sequence[Reading],
    late: Sequence[int | None],
    day: str,
    spans: Sequence[tuple[int, bool]],
) -> BilledDay:
    """Return one day. `spans`: by the number of its first reading, whether it can be compared."""
    taken = 0.0
    booked = 0
    least = 0
    most = 0
    unknown_ms = 0
    for known, run in groupby(spans, key=lambda span: span[1]):
        numbers = [number for number, _ in run]
        first = readings[numbers[0]]
        last = readings[numbers[-1] + 1]
        if not known:
            unknown_ms += last.at_ms - first.at_ms
            continue
        taken += first.credits - last.credits
        booked += last.booked.credits - first.booked.credits
        # A lead that was in flight at the first reading may have been paid before it, and one that
        # is in flight at the last one may be paid already.
        least += last.booked.least - first.booked.least - first.open
        most += last.booked.most - first.booked.most + last.open + (late[numbers[0]] or 0)
    taken = round(taken, _DIGITS)
    is_known = any(known for _, known in spans)
    above = max(0.0, taken - most) - max(0.0, least - taken)
    unexplained = round(above, _DIGITS)
    verdict: BillVerdict = "unknown"
    if is_known:
        verdict = "more" if unexplained > 0 else "less" if unexplained < 0 else "agrees"
    return BilledDay(
        day=day,
        since_ms=readings[spans[0][0]].at_ms,
        until_ms=readings[spans[-1][0] + 1].at_ms,
        taken=taken,
        booked=booked,
        drift=round(taken - booked, _DIGITS),
        least=least,
        most=most,
        unexplained=unexplained,
        verdict=verdict,
        unknown_ms=unknown_ms,
        says="; ".join(_words(verdict, unexplained, unknown_ms)),
    )


def _late(readings: Sequence[Reading]) -> Iterator[int | None]:
    """Yield for each reading what Clay may take only after it for leads that are booked already.

    A destination without callbacks books an estimate as soon as Clay has the lead. An hour is taken
    for the time that Clay needs. None: no reading is so old that it tells.
    """
    before = 0
    for reading in readings:
        # The last one that is an hour old, so that the hour is whole.
        while before + 1 < len(readings) and reading.at_ms - readings[before + 1].at_ms >= _HOUR_MS:
            before += 1
        begin = readings[before]
        is_whole = reading.at_ms - begin.at_ms >= _HOUR_MS or not begin.booked.guessed
        yield max(0, reading.booked.guessed - begin.booked.guessed) if is_whole else None


def _words(verdict: BillVerdict, unexplained: float, unknown_ms: int) -> Iterable[str]:
    if verdict == "more":
        yield (
            f"Clay took {count(unexplained, 'credit')} more than the leads explain: someone else "
            "used this workspace, or a lead cost more than its ceiling"
        )
    elif verdict == "less":
        yield (
            f"Clay took {count(-unexplained, 'credit')} less than the leads cost by its own "
            "answers: credits were added or returned between two readings, or a cost column says "
            "too much"
        )
    elif verdict == "agrees":
        yield AGREES
    if unknown_ms:
        minutes = count(max(1, round(unknown_ms / 60_000)), "minute")
        yield f"the balance rose (credits were added or returned), so {minutes} cannot be compared"


def day_of_reading(at_ms: int) -> str:
    """Return the day (UTC) of a reading at this time, epoch ms."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
