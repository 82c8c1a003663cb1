"""What the lane's decisions cost a lead: CPU alone, no Kafka, no HTTP.

`python -m benchmarks.lane [--leads 20000] [--json]`. A busy lane: half its window full, caps on all
four meters, two destinations, a live change, 50 leads under way. `admit` and `settle` are once a
lead; the row's encoding and the view are once a commit (beside them: how many leads share one at 8
a second and at full speed). It exits with 1 when a lead with its callback takes more than 40 us.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

from stream_app.domain.lane.admission import Grant, decide
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.overrides import ChangeBudget, obey
from stream_app.domain.lane.settlement import book_callback, settled
from stream_app.domain.limits.budget import BudgetPolicy, Cost
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.outcome import Accepted
from stream_app.domain.plan import Actor, Destination, InForce
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.lane_now import view

NOW_MS = 1_796_083_140_000
MAX_US = 40.0
_WHOLE = "admit + settle + callback"
UNDER_WAY = 50
ROUNDS = 100
_CAP = 10**9
_encode = msgspec.json.Encoder().encode


def _setting() -> tuple[InForce, list[Destination], Lane]:
    caps = BudgetPolicy(
        credits_per_day=_CAP,
        credits_per_month=_CAP,
        actions_per_day=_CAP,
        actions_per_month=_CAP,
    )
    policy = InForce("acme", "people", rate=RatePolicy(rate_per_s=1_000, burst=10_000), budget=caps)
    destinations = [
        Destination(alias, "acme", (f"{alias}-1", f"{alias}-2"))
        for alias in ("people", "companies")
    ]
    lane = obey(
        policy,
        Lane("acme", 0),
        ChangeBudget({"credits_per_day": _CAP - 1}),
        Actor("anna", "", NOW_MS),
    ).lane
    return policy, destinations, lane


def _timed(calls: int, work: Callable[[int], None]) -> float:
    """CPU us of one of these calls."""
    began = time.process_time_ns()
    for number in range(calls):
        work(number)
    return (time.process_time_ns() - began) / calls / 1_000


class _Busy:
    """One lane that takes a lead every 5 ms, answered 50 leads later and called back at once."""

    def __init__(self) -> None:
        self.policy, self.destinations, self.lane = _setting()
        self.now_ms = NOW_MS
        self.entries: deque[Grant] = deque()
        self.seen: LaneView | None = None
        for _ in range(UNDER_WAY):
            self.admit()

    def admit(self) -> None:
        self.now_ms += 5
        self.lane, entry = decide(self.policy, self.lane, self.destinations[0], self.now_ms, 0)
        assert isinstance(entry, Grant), entry
        self.entries.append(entry)

    def settle(self) -> Grant:
        entry = self.entries.popleft()
        self.lane, _ = settled(
            self.policy,
            self.lane,
            entry,
            Accepted(200, 250),
            self.now_ms,
            0.5,
            UNDER_WAY,
        )
        return entry

    def lead(self, _: int) -> None:
        """All that is decided for one lead."""
        self.admit()
        entry = self.settle()
        cost = Cost(7, 1)
        self.lane = book_callback(
            self.policy,
            self.lane,
            entry.destination,
            entry.reservation,
            cost,
            self.now_ms,
        )

    def send(self, _: int) -> None:
        """The same without the callback: then its reservation stays."""
        self.admit()
        self.settle()

    def row(self, _: int) -> None:
        _encode(self.lane)

    def view(self, _: int) -> None:
        self.seen = view(self.policy, self.lane, self.destinations, self.now_ms, self.seen)
        _encode(self.seen)


def measure(leads: int) -> dict[str, float]:
    """CPU us of each part, in its least disturbed round.

    The pace of a machine changes within a second. So the rounds are short and the parts take turns:
    each of them meets the pace that all others meet, and two runs agree.
    """
    busy = _Busy()
    _timed(leads, busy.lead)
    parts = {
        "admit + settle": busy.send,
        _WHOLE: busy.lead,
        "row, a commit": busy.row,
        "view, a commit": busy.view,
    }
    least = dict.fromkeys(parts, math.inf)
    for _ in range(ROUNDS):
        for name, work in parts.items():
            least[name] = min(least[name], _timed(leads // ROUNDS, work))
    return least


def main() -> None:
    """Print it, and exit with 1 when a lead costs too much."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lane",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--leads", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    times = measure(arguments.leads)
    if arguments.json:
        Console().print_json(data={name: round(us, 1) for name, us in times.items()})
    else:
        _show(times)
    if (us := times[_WHOLE]) > MAX_US:
        raise SystemExit(f"{_WHOLE} takes {us:.1f} us, more than {MAX_US:g}")


def _show(times: dict[str, float]) -> None:
    table = Table(title="The lane's decisions: CPU us")
    table.add_column("what")
    table.add_column("us", justify="right")
    for name, us in times.items():
        table.add_row(name, f"{us:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
