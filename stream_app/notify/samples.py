"""What the processes' metrics say now, and by how much their counters grew. Bounded in memory."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

Labels = Mapping[str, str]
Key = tuple[tuple[str, str], ...]
"""Labels, sorted."""

MOST_SERIES: Final = 50_000
"""So many series are kept. `MOST_LANES` of a worker need about 10 each."""


class Sample(NamedTuple):
    """A value of a metric, as a process shows it."""

    metric: str
    labels: Labels
    value: float


class Samples:
    """The last answer of each process, and the growth of counters within a window.

    `window_s` is the longest time that `grown` may look back.
    """

    def __init__(self, counters: Collection[str], window_s: float) -> None:
        self._counters, self._window_s = frozenset(counters), window_s
        self._now: dict[tuple[str, str], dict[str, list[Sample]]] = {}  # by job and instance, then by metric
        self._totals: dict[tuple[str, Key], tuple[float, float]] = {}  # time, value
        self._grown: defaultdict[tuple[str, Key], deque[tuple[float, float]]] = defaultdict(deque)
        self._seen: dict[str, float] = {}  # job -> time of its first answer

    def answered(self, job: str, instance: str, samples: Iterable[Sample], now_s: float) -> None:
        """Take the metrics of a process.

        The value of a series that appears after the job's first answer is growth, because counters of leads appear with
        their first event.
        """
        first = self._seen.setdefault(job, now_s) == now_s
        kept: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in islice(samples, MOST_SERIES):
            labels = {**sample.labels, "job": job, "instance": instance}
            kept[sample.metric].append(Sample(sample.metric, labels, sample.value))
            if sample.metric in self._counters:
                self._count(sample.metric, labels, sample.value, now_s, first=first)
        self._now[job, instance] = kept

    def _count(self, metric: str, labels: Labels, value: float, now_s: float, *, first: bool) -> None:
        series = (metric, tuple(sorted(labels.items())))
        if series not in self._totals and len(self._totals) >= MOST_SERIES:
            return
        _, before = self._totals.get(series, (now_s, value if first else 0.0))
        self._totals[series] = now_s, value
        if growth := value - before if value >= before else value:  # a counter that fell began again at 0
            self._grown[series].append((now_s, growth))

    def expect(self, job: str, instances: Collection[str], now_s: float) -> None:
        """Forget the present values of the job's other processes, and growth that is too old."""
        for place in [place for place in self._now if place[0] == job and place[1] not in instances]:
            del self._now[place]
        for series, growths in list(self._grown.items()):
            while growths and growths[0][0] <= now_s - self._window_s:
                growths.popleft()
            if not growths:
                del self._grown[series]
        for series in [each for each, (at_s, _) in self._totals.items() if at_s <= now_s - self._window_s]:
            del self._totals[series]

    def up(self, job: str) -> int:
        """Return how many processes answered the last time."""
        return sum(place[0] == job for place in self._now)

    def of(self, metric: str) -> Iterator[Sample]:
        """Yield the metric's present series."""
        return (sample for metrics in self._now.values() for sample in metrics.get(metric, ()))

    def grown(self, metric: str, since_s: float) -> Iterator[Sample]:
        """Yield by how much each of the counter's series has grown since that time, where it has."""
        for (name, key), growths in self._grown.items():
            if name == metric and (growth := sum(by for at_s, by in growths if at_s > since_s)):
                yield Sample(metric, dict(key), growth)
