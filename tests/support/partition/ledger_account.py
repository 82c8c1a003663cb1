"""What the simulator's ledger has of a history, which is what every number must be held against.

The ledger knows each charge, each request and each answer. Of the partition only the times are used
at which it has settled a lead.
"""

from collections.abc import Iterator
from itertools import dropwhile, groupby, pairwise
from typing import Final, NamedTuple

from stream_app.dev.simulator.ledger import PollLine, RequestLine, RunLine
from tests.support.partition.histories import (
    CEILING,
    CREDITS,
    ESTIMATE,
    FINAL,
    SLOW_S,
    SLUGS,
    Past,
    costs_of,
    taken_by,
)
from tests.support.partition.simulated import ANSWER_S, REQUEST_TIMEOUT_S

ANSWERED: Final = {"enriched", "partial", "no_data", "enrich_error"}
HOUR_MS: Final = 3_600_000


class Sums(NamedTuple):
    """What was booked until some time, and what may have been taken for it."""

    credits: int = 0
    least: int = 0
    most: int = 0
    guessed: int = 0
    open: int = 0


class Count:
    """Counts what the ledger has of a history."""

    def __init__(self, past: Past) -> None:
        self.lines = past.lines
        self.told = past.told
        self.runs = {
            line.lead_id: line.run_id
            for line in past.lines
            if isinstance(line, RunLine) and line.run_id and line.lead_id is not None
        }
        self.costs = costs_of(past.lines)
        self.events = sorted(past.bench.events(), key=lambda event: (event.at_ms, event.seq))
        self.calls = {alias: list(self._calls(alias)) for alias in SLUGS}
        self.polls = [
            line
            for line in past.lines
            if isinstance(line, PollLine) and (line.endpoint, line.status) == ("balance", 200)
        ]

    # ------------------------------------------------------------------------------- money

    def left(self, poll: PollLine) -> int:
        """Return the credits that were left when the balance was told."""
        return CREDITS - sum(taken_by(line) for line in self.lines if line.seq < poll.seq)

    def read(self, poll: PollLine) -> "Read":
        """Return what the answer about a balance comes to."""
        sums = self.booked(poll.at_ms)
        took_s = ANSWER_S + (SLOW_S if poll.fault == "slow" else 0)
        answered = self.booked(poll.at_ms + round(took_s * 1_000))
        # What was booked meanwhile may be in the answer or not.
        return Read(poll, self.left(poll), sums, answered.open + answered.most - sums.most)

    def cost_said(self, lead_id: str) -> int | None:
        """Return the cost of a lead that Clay's answer says; None if it says none."""
        item = self.told.get(self.runs.get(lead_id, ""), {})
        reported = (item.get("result") or {}).get("credits")
        if reported is not None:
            assert reported == self.costs[lead_id]
        return reported if item.get("status") == "complete" else None

    def booked(self, at_ms: int) -> Sums:
        """Return what was booked at this time, from the ledger's costs."""
        sums = Sums()
        reserved: dict[str, int] = {}
        before: dict[str, int] = {}
        for event in self.events:
            if event.at_ms > at_ms:
                break
            lead = event.lead_id
            if event.status == "sending":
                reserved[lead] = CEILING
            elif event.status in ("refused", "dead_lettered", "rejected_invalid"):
                reserved.pop(lead, None)
            elif event.status in ("confirmed", "cost_corrected"):  # by an operator
                cost = costs_of(self.lines, event.at_ms)[lead]
                known = before.pop(lead)
                sums = sums._replace(
                    credits=sums.credits + cost - known,
                    most=sums.most + max(known, cost),
                )
                assert event.credits == cost - known
            elif event.status in ANSWERED and self.cost_said(lead) is not None:
                cost = self.cost(lead)
                reserved.pop(lead)
                sums = sums._replace(
                    credits=sums.credits + cost,
                    least=sums.least + max(0, cost - 1),
                    most=sums.most + cost,
                )
                assert event.credits == cost
            elif lead in reserved and (
                event.status in {*ANSWERED, "parked"}
                or (event.status == "accepted" and event.destination == FINAL)
            ):
                cost = CEILING if event.status == "parked" else ESTIMATE
                reserved.pop(lead)
                if event.status == "parked":
                    before[lead] = cost
                sums = sums._replace(
                    credits=sums.credits + cost,
                    most=sums.most + CEILING,
                    guessed=sums.guessed + CEILING,
                )
                assert event.credits == cost
        return sums._replace(open=sum(reserved.values()))

    def cost(self, lead: str) -> int:
        reported = self.cost_said(lead)
        return ESTIMATE if reported is None else reported

    # ------------------------------------------------------------------------------- health

    def _calls(self, alias: str) -> Iterator[tuple[int, str]]:
        """Yield when each request of a destination was answered, and how: ok, slow, failed."""
        for line in self.lines:
            if (
                not isinstance(line, RequestLine)
                or line.webhook != SLUGS[alias]
                or line.lead_id is None
                or line.status == 429
            ):
                continue
            took_s = ANSWER_S + (SLOW_S if line.fault == "slow" else 0)
            if line.status == "hang":
                took_s = REQUEST_TIMEOUT_S
            is_good = isinstance(line.status, int) and line.status < 300
            word = "slow" if line.fault == "slow" else "ok"
            yield line.at_ms + round(took_s * 1_000), word if is_good else "failed"


class Read(NamedTuple):
    """A reading of the balance, by the ledger. `open`: what may have been taken and not booked."""

    poll: PollLine
    left: int
    sums: Sums
    open: int


class LedgerDay(NamedTuple):
    """What the ledger has of one day of the bill, in credits.

    Attributes:
        taken: By how much the balance fell.
        booked: The costs of the leads that were settled.
        least: The least that these leads and those in flight explain.
        most: The most that they explain.
        unexplained: What they do not explain.
        unknown_ms: How long nothing is comparable, because the balance rose.
        since_ms: The first reading.
        until_ms: The last one.
    """

    taken: int = 0
    booked: int = 0
    least: int = 0
    most: int = 0
    unexplained: int = 0
    unknown_ms: int = 0
    since_ms: int = 0
    until_ms: int = 0


def days_of_ledger(count: Count) -> list[LedgerDay]:
    """Count the days of the bill, the newest first."""
    every = [count.read(poll) for poll in count.polls]
    # The board keeps the first reading of each hour, and knows the last one.
    hours = groupby(every, key=lambda read: read.poll.at_ms // HOUR_MS)
    kept = [next(of_hour) for _, of_hour in hours]
    kept += every[-1:] if kept[-1:] != every[-1:] else []
    late = {read.poll.seq: _late(read, kept) for read in kept}
    compared = dropwhile(lambda read: late[read.poll.seq] is None, kept)
    rises = {then.poll.seq for first, then in pairwise(every) if then.left > first.left}

    def is_known(span: tuple[Read, Read]) -> bool:
        first, then = span
        return not any(first.poll.seq < rise <= then.poll.seq for rise in rises)

    days: list[LedgerDay] = []
    for _, of_day in groupby(
        pairwise(compared),
        key=lambda span: span[0].poll.at_ms // (24 * HOUR_MS),
    ):
        day = LedgerDay()
        for known, alike in groupby(of_day, key=is_known):
            spans = list(alike)
            first = spans[0][0]
            last = spans[-1][1]
            day = day._replace(
                since_ms=day.since_ms or first.poll.at_ms,
                until_ms=last.poll.at_ms,
            )
            if not known:
                lasted_ms = last.poll.at_ms - first.poll.at_ms
                day = day._replace(unknown_ms=day.unknown_ms + lasted_ms)
                continue
            later = last.open + (late[first.poll.seq] or 0)
            day = day._replace(
                taken=day.taken + first.left - last.left,
                booked=day.booked + last.sums.credits - first.sums.credits,
                least=day.least + last.sums.least - first.sums.least - first.open,
                most=day.most + last.sums.most - first.sums.most + later,
            )
        above = max(0, day.taken - day.most) - max(0, day.least - day.taken)
        days.append(day._replace(unexplained=above))
    return days[::-1]


def _late(read: Read, kept: list[Read]) -> int | None:
    """Return what was guessed in the hour before a reading; None if that is not known."""
    older = [other for other in kept if read.poll.at_ms - other.poll.at_ms >= HOUR_MS]
    if not older and kept[0].sums.guessed:
        return None
    begin = older[-1] if older else kept[0]
    return read.sums.guessed - begin.sums.guessed
