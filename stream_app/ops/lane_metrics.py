"""Prometheus metrics of the lanes, with what waits for them. Labels are few and bounded.

A webhook is labelled by its id, never by its URL.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from stream_app.domain.views.lane import LaneView, PartHold

MAX_NAMES: Final = 1_000
OTHERS: Final = "(others)"
"""The value for all names beyond the bound. No workspace or destination can have this name."""
_BREAKER: Final = {"closed": 0, "half_open": 1, "open": 2}
_MODES: Final = ("auto", "shadow", "closed", "open")
_GOOD: Final = frozenset(
    {
        "resumed",
        "moves",
        "changed",
        "mode",
        "breaker_closed",
        "destination_closed",
        "health_healthy",
        "health_insufficient_data",
    }
    | {"budget_new_period", "webhook_back"},
)
MAX_LANES: Final = 1_000
"""The most lanes of a process that have series, about 30 each."""
_IDLE_MS: Final = 10 * 60_000
Labels = tuple[str, ...]


class BoundedLabel:
    """Names as values of a label, whose number is bounded.

    The first MAX_NAMES names of a process have series of their own, and all others share the
    series OTHERS.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= MAX_NAMES:
                return OTHERS
            self._names.add(name)
        return name


class LaneMetrics:
    """Shows the last published state of the lanes that this process owns, of MAX_LANES at most.

    If there are more, a lane that is held, as a whole or in part, takes the place of one that is
    not, and any other lane takes the place of one that has not changed for ten minutes.
    `stream_app_lanes_left_out` counts the rest.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        log: FilteringBoundLogger,
        now_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._now_ms = now_ms
        # In the order of their last change, the latest at the end.
        self._shown: dict[str, set[tuple[Gauge, Labels]]] = {}
        self._last: dict[str, LaneView] = {}  # of those that are shown
        self._left_out: set[str] = set()
        self._workspace = BoundedLabel()
        left_out = Gauge(
            "stream_app_lanes_left_out",
            "Lanes of this process that have no series, because others are held or change.",
            registry=registry,
        )
        left_out.set_function(lambda: len(self._left_out))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"stream_app_lane_{name}", text, ("workspace", *labels), registry=registry)

        self._breaker = gauge("breaker", "0 closed, 1 half open, 2 open.")
        self._mode = gauge(
            "breaker_mode",
            "1 for the breaker's mode: auto, shadow, or forced closed or open.",
            "mode",
        )
        self._score = gauge("score", "Health of the last five minutes, 0 to 100.")
        self._calls = gauge("window_calls", "Calls in the last five minutes.")
        self._own_score = gauge(
            "destination_score",
            "Health of a destination in the last five minutes, 0 to 100.",
            "destination",
        )
        self._own_breaker = gauge(
            "destination_breaker",
            "As breaker, for a destination that fails alone: 0 closed, 1 half open, 2 open.",
            "destination",
        )
        self._latency = gauge(
            "latency_seconds",
            "Clay's latency in the last five minutes.",
            "quantile",
        )
        self._holds = gauge("holds", "1 while the whole lane is held, by reason.", "reason")
        self._own_holds = gauge(
            "destination_holds",
            "1 while leads of a destination are held and others of its lane are not, by reason.",
            "destination",
            "reason",
        )
        self._rate = gauge("rate_per_second", "Current rate limit.")
        self._slots = gauge("concurrency", "Limit of concurrent POSTs.")
        self._spent = gauge("budget_spent", "Booked in the meter's present day or month.", "meter")
        self._reserved = gauge(
            "budget_reserved",
            "Reserved in the meter's present day or month.",
            "meter",
        )
        self._elsewhere = gauge(
            "budget_elsewhere",
            "Spent elsewhere in the meter's present day or month.",
            "meter",
        )
        self._cap = gauge("budget_cap", "The meter's limit, where it has one.", "meter")
        self._used = gauge(
            "budget_used_ratio",
            "Part of the limit that is spent or reserved.",
            "meter",
        )
        self._shadow = gauge(
            "shadow_leads",
            "Leads that a shadow breaker or budget would have held.",
            "of",
        )
        self._cost = gauge(
            "estimate_credits",
            "Credits that a lead has come to cost.",
            "destination",
        )
        self._sent = gauge(
            "webhook_submissions",
            "Submissions of a webhook, for its lifetime.",
            "webhook",
        )
        self._left = gauge(
            "submissions_left",
            "Submissions that a destination's pool of webhooks still takes.",
            "destination",
        )
        self._fell = gauge(
            "yield_fell",
            "1 while Clay finds a column of a destination much less often than before.",
            "destination",
            "column",
        )
        self._changes = Counter(
            "stream_app_lane_changes",
            "Changes of lanes: suspension, breaker, soft limits, quota, commands.",
            ("workspace", "kind"),
            registry=registry,
        )

    def show(self, view: LaneView) -> None:
        name = view.workspace
        if self._makes_room(view):
            shown: set[tuple[Gauge, Labels]] = set()
            for gauge, labels, value in self._values(view):
                gauge.labels(name, *labels).set(value)
                shown.add((gauge, labels))
            if view.holds:
                # Its time may pass before the lane publishes that it is over.
                self._holds.labels(name, view.holds).set_function(
                    lambda: view.at(self._now_ms()).holds == view.holds,
                )
                shown.add((self._holds, (view.holds,)))
            for part in view.partly:
                for alias in part.destinations:
                    labels = (alias, part.holds)
                    self._own_holds.labels(name, *labels).set_function(
                        partial(self._lasts, part),
                    )
                    shown.add((self._own_holds, labels))
            self._forget(name, self._shown.pop(name, set()) - shown)
            self._shown[name] = shown
            self._last[name] = view
            self._left_out.discard(name)
        else:
            self._left_out.add(name)
        for change in view.news:
            self._changes.labels(self._workspace(name), change.kind).inc()
            log = self._log.info if change.kind in _GOOD else self._log.warning
            log("lane", workspace=name, kind=change.kind, text=change.text)

    def gone(self, workspace: str) -> None:
        """Remove the gauges of a lane, which would show its last state forever and fire alerts."""
        self._forget(workspace, self._shown.pop(workspace, set()))
        self._last.pop(workspace, None)
        self._left_out.discard(workspace)

    def _makes_room(self, view: LaneView) -> bool:
        """Return True if the lane may have series.

        Removes another lane's series if that is necessary and allowed.
        """
        if view.workspace in self._shown or len(self._shown) < MAX_LANES:
            return True
        for name in self._shown:
            last = self._last[name]
            idle = view.at_ms - last.at_ms > _IDLE_MS
            if not _is_held(last) and (_is_held(view) or idle):
                self.gone(name)
                self._left_out.add(name)
                return True
            if not _is_held(view) and not idle:
                break
        return False

    def _lasts(self, part: PartHold) -> bool:
        return part.at(self._now_ms()) is not None

    @staticmethod
    def _forget(workspace: str, shown: set[tuple[Gauge, Labels]]) -> None:
        for gauge, labels in shown:
            gauge.remove(workspace, *labels)

    def _values(self, view: LaneView) -> Iterator[tuple[Gauge, Labels, float]]:
        yield self._breaker, (), _BREAKER[view.breaker]
        yield from ((self._mode, (mode,), mode == view.mode) for mode in _MODES)
        yield self._score, (), view.score
        yield self._calls, (), view.calls
        for alias, health in view.destinations.items():
            yield self._own_score, (alias,), health.score
            yield self._own_breaker, (alias,), _BREAKER[health.breaker]
        if view.calls:
            for quantile, ms in (
                ("0.5", view.p50_ms),
                ("0.95", view.p95_ms),
                ("0.99", view.p99_ms),
            ):
                yield self._latency, (quantile,), ms / 1000
        yield self._rate, (), view.rate_per_s
        yield self._slots, (), view.concurrency
        for meter, state in view.meters.items():
            yield self._spent, (meter,), state.spent
            yield self._reserved, (meter,), state.reserved
            yield self._elsewhere, (meter,), state.elsewhere
            if state.cap is not None:
                yield self._cap, (meter,), state.cap
                yield self._used, (meter,), state.used / state.cap if state.cap else 1.0
        yield self._shadow, ("breaker",), view.shadow_breaker
        yield self._shadow, ("budget",), view.shadow_budget
        yield from ((self._cost, (alias,), cost.credits) for alias, cost in view.estimates.items())
        yield from (
            (self._sent, (webhook_id,), hook.count) for webhook_id, hook in view.webhooks.items()
        )
        yield from ((self._fell, (fall.destination, fall.column), 1) for fall in view.falls)
        yield from ((self._left, (alias,), left) for alias, left in view.submissions_left.items())


def _is_held(view: LaneView) -> bool:
    """Return True if leads of the lane are held: all of them, or those of a part of it."""
    return bool(view.holds or view.partly)


class WaitingRecords(Collector):
    """Shows how many records on Kafka this process has not taken.

    `look` returns them by topic and partition. It is called when metrics are read. `sources`: the
    source of each topic.
    """

    def __init__(
        self,
        look: Callable[[], Mapping[tuple[str, int], int]],
        sources: Mapping[str, str],
    ) -> None:
        self._look = look
        self._sources = sources

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "stream_app_records_waiting",
            "Records on Kafka that no worker has taken, by source; beyond 2,000 an upper "
            "bound, with markers.",
            labels=("source", "partition"),
        )
        for (topic, partition), count in self._look().items():
            family.add_metric((self._sources[topic], str(partition)), count)
        yield family


class UnreadablePartitions(Collector):
    """Shows how many partitions of this process have stopped before records that cannot be read.

    `look` returns them by topic, 0 included: an alert must see that a topic can be read again. It
    is called when metrics are read.
    """

    def __init__(self, look: Callable[[], Mapping[str, int]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "stream_app_unreadable_partitions",
            "Partitions that have stopped before records that cannot be read, by topic.",
            labels=("topic",),
        )
        for topic, count in self._look().items():
            family.add_metric((topic,), count)
        yield family


class RunsWithoutResults(Collector):
    """Shows the runs of routines whose results are not known yet.

    `look` returns, for each partition of this process, how many there are by destination and when
    the POST of the oldest was accepted, epoch ms. It is called when metrics are read.
    """

    def __init__(
        self,
        look: Callable[[], Iterable[Mapping[str, tuple[int, int]]]],
        now_ms: Callable[[], int],
    ) -> None:
        self._look = look
        self._now_ms = now_ms

    def collect(self) -> Iterator[GaugeMetricFamily]:
        runs: Counts[str] = Counts()
        oldest_ms: dict[str, int] = {}
        for partition in self._look():
            for alias, (count, since_ms) in partition.items():
                runs[alias] += count
                oldest_ms[alias] = min(since_ms, oldest_ms.get(alias, since_ms))
        shown = runs.most_common(MAX_NAMES)
        number = GaugeMetricFamily(
            "stream_app_runs_open",
            "Runs of routines that Clay has accepted and whose results are not known yet.",
            labels=("destination",),
        )
        age = GaugeMetricFamily(
            "stream_app_runs_oldest_seconds",
            "Age of the oldest of these runs.",
            labels=("destination",),
        )
        for alias, count in shown:
            number.add_metric((alias,), count)
            age.add_metric((alias,), max(0, self._now_ms() - oldest_ms[alias]) / 1000)
        yield number
        yield age


class ParkedLeads(Collector):
    """Shows how many leads wait for a human.

    `look` returns them by workspace, for each partition of this process. It is called when metrics
    are read.
    """

    def __init__(self, look: Callable[[], Iterable[Mapping[str, int]]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "stream_app_parked_leads",
            "Leads that are parked and wait for a human.",
            labels=("workspace",),
        )
        parked: Counts[str] = Counts()
        for partition in self._look():
            parked.update(partition)
        shown = (+parked).most_common(MAX_NAMES)  # without those that have none any more
        for workspace, count in shown:
            family.add_metric((workspace,), count)
        if (rest := parked.total() - sum(count for _, count in shown)) > 0:
            family.add_metric((OTHERS,), rest)
        yield family
