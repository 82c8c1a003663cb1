"""Sliding windows over the last calls, as rings of time buckets in the lane's row.

A lane has two: the breaker and the flood guard use the last minute, people see the health of five
minutes.

A bucket is named by its slot: the number of whole bucket lengths since the epoch. Empty buckets are
not stored. If the clock steps back, the ring is moved back with it, so that no call is lost and
none stays too long.
"""

import math
from bisect import bisect_left
from itertools import accumulate
from typing import Final, Literal

import msgspec

from stream_app.domain.model.numbers import Whole

LATENCY_BOUNDS_MS = (
    25,
    50,
    100,
    150,
    200,
    300,
    500,
    750,
    1_000,
    1_500,
    2_000,
    3_000,
    5_000,
    7_500,
    10_000,
    15_000,
    30_000,
    60_000,
)
"""Inclusive upper bounds of the cells of the histogram. One more cell holds everything above."""

_NO_LATENCIES = (0,) * (len(LATENCY_BOUNDS_MS) + 1)

HealthStatus = Literal["healthy", "degraded", "unhealthy", "insufficient_data"]
_BANDS: Final[tuple[HealthStatus, ...]] = ("healthy", "degraded", "unhealthy")
MIN_CALLS: Final = 20  # fewest calls for a status
HEALTHY_ABOVE: Final = 95.0  # score above which a lane is healthy
DEGRADED_ABOVE: Final = 80.0  # score above which it is degraded


class WindowSpan(msgspec.Struct, frozen=True):
    """How far a window looks back: `buckets` buckets of `bucket_s` seconds."""

    buckets: int
    bucket_s: float

    def slot(self, now_ms: int) -> int:
        """Return the number of the bucket of this time."""
        return now_ms // int(self.bucket_s * 1000)


LAST_MINUTE: Final = WindowSpan(10, 6.0)  # what breaker and flood guard look at
FIVE_MINUTES: Final = WindowSpan(10, 30.0)  # what people see


class Bucket(msgspec.Struct, frozen=True, omit_defaults=True):
    """The calls of one slot."""

    slot: Whole  # its number
    success: Whole = 0
    failure: Whole = 0
    slow: Whole = 0  # the slow part of `success`
    latencies: tuple[Whole, ...] = _NO_LATENCIES  # counts by LATENCY_BOUNDS_MS
    dead_letters: Whole = 0  # dead letters, which are not calls


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """Buckets with calls in them, oldest first."""

    buckets: tuple[Bucket, ...] = ()


class WindowTotals(msgspec.Struct, frozen=True):
    """Calls over the whole window. `slow` is part of `success`: a slow failure is a failure."""

    success: int = 0
    failure: int = 0
    slow: int = 0
    dead_letters: int = 0

    @property
    def calls(self) -> int:
        return self.success + self.failure


class Latency(msgspec.Struct, frozen=True):
    """Estimated percentiles in ms, interpolated within a cell.

    Above the last bound they are that bound.
    """

    p50_ms: int
    p95_ms: int
    p99_ms: int


def record(
    span: WindowSpan,
    state: Window,
    now_ms: int,
    ok: bool,
    slow: bool,
    latency_ms: int | None = None,
) -> Window:
    """Return the window with one more finished call.

    `latency_ms` is the time from sending to the answer or failure; None: it is not recorded.
    """
    before, bucket = _present(span, state, now_ms)
    # A row of an older version may have other cells: its latencies mean something else and are
    # dropped.
    latencies = bucket.latencies if len(bucket.latencies) == len(_NO_LATENCIES) else _NO_LATENCIES
    if latency_ms is not None:
        cells = list(latencies)
        cells[bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1
        latencies = tuple(cells)
    after = msgspec.structs.replace(
        bucket,
        success=bucket.success + ok,
        failure=bucket.failure + (not ok),
        slow=bucket.slow + (ok and slow),
        latencies=latencies,
    )
    return Window((*before, after))


def record_dead_letter(span: WindowSpan, state: Window, now_ms: int) -> Window:
    """Return the window with one more dead letter."""
    before, bucket = _present(span, state, now_ms)
    return Window((*before, msgspec.structs.replace(bucket, dead_letters=bucket.dead_letters + 1)))


def totals(span: WindowSpan, state: Window, now_ms: int) -> WindowTotals:
    """Return the counts of the buckets that are still inside the window."""
    success = 0
    failure = 0
    slow = 0
    dead_letters = 0
    for bucket in _inside(span, state, now_ms):
        success += bucket.success
        failure += bucket.failure
        slow += bucket.slow
        dead_letters += bucket.dead_letters
    return WindowTotals(success, failure, slow, dead_letters)


def score(counts: WindowTotals) -> float:
    """Return 0 (all failed) to 100 (all fast and successful).

    A slow success counts half. No calls: 100.
    """
    if not counts.calls:
        return 100.0
    return 100.0 * (counts.success - counts.slow / 2) / counts.calls


def status(counts: WindowTotals, before: HealthStatus | None) -> HealthStatus:
    """Return the score in a word, or that there are too few calls.

    `before` is the last status, None if there was none. It stays until the score is past a border
    by two standard errors, and until there are half as few calls as a first status needs: a lane on
    a border would otherwise be reported as changed with every few calls.
    """
    known = None if before == "insufficient_data" else before
    if counts.calls < (MIN_CALLS // 2 if known else MIN_CALLS):
        return "insufficient_data"
    points = score(counts)
    if known is None:
        return _band(points)
    share = points / 100
    error = 100 * math.sqrt(share * (1 - share) / counts.calls)
    at_best = _band(points + 2 * error)
    at_worst = _band(points - 2 * error)
    if _BANDS.index(at_best) > _BANDS.index(known):
        return at_best
    return at_worst if _BANDS.index(at_worst) < _BANDS.index(known) else known


def _band(points: float) -> HealthStatus:
    if points > HEALTHY_ABOVE:
        return "healthy"
    return "degraded" if points > DEGRADED_ABOVE else "unhealthy"


def latency(span: WindowSpan, state: Window, now_ms: int) -> Latency | None:
    """Return percentiles over the window; None without calls."""
    cells = list(
        map(sum, zip(*(bucket.latencies for bucket in _inside(span, state, now_ms)), strict=False)),
    )
    if not any(cells):
        return None
    cumulated = list(accumulate(cells))
    return Latency(*(_percentile(cells, cumulated, share) for share in (0.50, 0.95, 0.99)))


def _present(span: WindowSpan, state: Window, now_ms: int) -> tuple[tuple[Bucket, ...], Bucket]:
    """Return the buckets before the present one, and the present one."""
    slot = span.slot(now_ms)
    buckets = state.buckets
    if buckets and buckets[-1].slot > slot:
        back = buckets[-1].slot - slot
        buckets = tuple(
            msgspec.structs.replace(bucket, slot=bucket.slot - back) for bucket in buckets
        )
    if buckets and buckets[-1].slot == slot:
        return buckets[:-1], buckets[-1]
    oldest = slot - span.buckets + 1
    return tuple(bucket for bucket in buckets if bucket.slot >= oldest), Bucket(slot)


def _inside(span: WindowSpan, state: Window, now_ms: int) -> list[Bucket]:
    oldest = span.slot(now_ms) - span.buckets + 1
    return [bucket for bucket in state.buckets if bucket.slot >= oldest]


def _percentile(cells: list[int], cumulated: list[int], share: float) -> int:
    rank = share * cumulated[-1]
    cell = bisect_left(cumulated, rank)
    if cell >= len(LATENCY_BOUNDS_MS):
        return LATENCY_BOUNDS_MS[-1]
    low = LATENCY_BOUNDS_MS[cell - 1] if cell else 0
    into = (rank - (cumulated[cell] - cells[cell])) / cells[cell]
    return round(low + into * (LATENCY_BOUNDS_MS[cell] - low))
