"""When the results of a routine's run are asked for: soon after the POST, then less and less often.

All times follow from the answer to the POST, so that a new owner of the partition goes on without
a record of the polls before: nothing is written for a poll. It begins with the first poll, so it
asks at once about a run whose first poll has passed. That costs a token of the lane, and nothing
else.

The destination has the times of the first polls. After the last of them there is one every 15
minutes until the lead is overdue, then one every hour. One more comes shortly before the deadline,
and before the grace ends. A small spread, always the same for a run, keeps the polls of a burst of
POSTs apart.
"""

from binascii import crc32
from collections.abc import Iterator
from itertools import count
from typing import Final

from stream_app.domain.plan import Destination

EVERY_S: Final = 900.0
"""The time between two polls after those of the destination, until the lead is overdue."""
OVERDUE_EVERY_S: Final = 3_600.0
"""The time between two polls while the lead is overdue."""
_LAST_BEFORE_S: Final = 60.0
_LAST_SHARE: Final = 0.1  # of a deadline that is shorter than ten minutes
_SPREAD: Final = 0.05  # of the time since the poll before
_MAX_COUNTED_POLLS: Final = 10_000  # a week has some 700 polls
_MAX_CRC: Final = 0xFFFF_FFFF


def next_poll_ms(
    run: str,
    accepted_ms: int,
    overdue_ms: int | None,
    destination: Destination,
    after_ms: int,
) -> int:
    """Return when the results of a run are asked for next, epoch ms.

    Args:
        run: The id of the run.
        accepted_ms: When Clay accepted the POST that began the run, epoch ms.
        overdue_ms: When the lead became overdue, epoch ms; None if it is not.
        destination: The routine.
        after_ms: The poll is later than this, epoch ms.
    """
    if overdue_ms is None:
        polls = _polls(run, accepted_ms, destination, after_ms)
        regular_ms = next(at_ms for at_ms in polls if at_ms > after_ms)
        last_ms = _last_ms(accepted_ms, destination.callback_deadline_s)
    else:
        every_ms = round(OVERDUE_EVERY_S * 1000)
        first_ms = overdue_ms + _spread_ms(run, OVERDUE_EVERY_S)
        regular_ms = first_ms + max(0, (after_ms - first_ms) // every_ms + 1) * every_ms
        last_ms = _last_ms(overdue_ms, destination.callback_grace_s)
    return last_ms if after_ms < last_ms < regular_ms else regular_ms


def polls_until(
    run: str,
    accepted_ms: int,
    overdue_ms: int | None,
    destination: Destination,
    now_ms: int,
) -> int:
    """Return how often the results of a run were asked for, by the schedule.

    There were more polls if an announcement hastened one or Clay was asked again, and fewer while
    the lane's rate delayed them.

    Args:
        run: The id of the run.
        accepted_ms: When Clay accepted the POST that began the run, epoch ms.
        overdue_ms: When the lead became overdue, epoch ms; None if it is not.
        destination: The routine.
        now_ms: Polls until then are counted, epoch ms.
    """
    ended_ms = now_ms if overdue_ms is None else min(now_ms, overdue_ms)
    polls = _count(run, accepted_ms, None, destination, ended_ms)
    if overdue_ms is not None:
        polls += _count(run, accepted_ms, overdue_ms, destination, now_ms)
    return polls


def _count(
    run: str,
    accepted_ms: int,
    overdue_ms: int | None,
    destination: Destination,
    until_ms: int,
) -> int:
    """Count the polls of one of the two waits until then."""
    at_ms = accepted_ms if overdue_ms is None else overdue_ms
    for number in range(_MAX_COUNTED_POLLS):
        at_ms = next_poll_ms(run, accepted_ms, overdue_ms, destination, at_ms)
        if at_ms > until_ms:
            return number
    return _MAX_COUNTED_POLLS


def _last_ms(since_ms: int, for_s: float) -> int:
    """Return the time of the poll before a wait of `for_s` seconds ends, epoch ms."""
    return since_ms + round((for_s - min(_LAST_BEFORE_S, _LAST_SHARE * for_s)) * 1000)


def _polls(run: str, accepted_ms: int, destination: Destination, after_ms: int) -> Iterator[int]:
    """Yield the times of the polls before the deadline, epoch ms; some may be before `after_ms`."""
    before_s = 0.0
    for after_s in destination.poll_after_s:
        yield accepted_ms + round(after_s * 1000) + _spread_ms(run, after_s - before_s)
        before_s = after_s
    every_ms = round(EVERY_S * 1000)
    last_ms = accepted_ms + round(before_s * 1000) + _spread_ms(run, EVERY_S)
    begun = max(0, (after_ms - last_ms) // every_ms)
    for number in count(begun + 1):
        yield last_ms + number * every_ms


def _spread_ms(run: str, since_s: float) -> int:
    """Return by how much the poll of a run is later, `since_s` seconds after the poll before."""
    return round(crc32(run.encode()) / _MAX_CRC * _SPREAD * since_s * 1000)
