"""The forms that a condition has. Each can be evaluated over samples, and written as PromQL.

metrics       the metrics that it reads
where         which series of them
window_s      how far it looks back
promql        the same for Prometheus
evaluate      the labels for which it holds now, with the value of each
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import eq, ge, gt, lt
from typing import Final, Literal

from stream_app.notify.samples import Key, Labels, Sample, Samples

_OPERATORS: Final = {">": gt, ">=": ge, "<": lt, "==": eq}
_AGGREGATE: Final[dict[str, Callable[[list[float]], float]]] = {"sum": sum, "max": max, "min": min}
_FLIPPED: Final = {">": "<", ">=": "<="}
Matchers = tuple[tuple[str, str, str], ...]
"""Label, operator (`=`, `!=` or `=~`) and value."""
Found = dict[Key, float]
"""What holds: labels -> value."""


@dataclass(frozen=True, slots=True)
class Absent:
    """No process of the job answers."""

    job: str
    metrics: tuple[str, ...] = ()
    window_s: float = 0.0
    where: Matchers = ()

    @property
    def promql(self) -> str:
        return f'absent(up{{job="{self.job}"}} == 1)'

    def evaluate(self, samples: Samples, now_s: float) -> Found:
        return {} if samples.up(self.job) else {(): 1.0}


@dataclass(frozen=True, slots=True)
class Level:
    """A gauge, summed or the highest or lowest of each group, is within bounds.

    Attributes:
        how: How the series of a group become one value.
        by: The labels of a group.
        bounds: Comparisons that must all hold. Of two, the first is the lower one.
        where: Which series count.
    """

    how: Literal["sum", "max", "min"]
    metric: str
    by: tuple[str, ...]
    bounds: tuple[tuple[str, float], ...]
    where: Matchers = ()
    window_s: float = 0.0

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    @property
    def promql(self) -> str:
        text = _aggregated(self.how, self.by, f"{self.metric}{_braces(self.where)}")
        *lower, (operator, number) = self.bounds
        before = "".join(f"{value:g} {_FLIPPED[sign]} " for sign, value in lower)
        return f"{before}{text} {operator} {number:g}"

    def evaluate(self, samples: Samples, now_s: float) -> Found:
        groups = _groups(samples.of(self.metric), self.by, self.where)
        values = {key: _AGGREGATE[self.how](values) for key, values in groups.items()}
        return {
            key: value
            for key, value in values.items()
            if all(_OPERATORS[operator](value, number) for operator, number in self.bounds)
        }


@dataclass(frozen=True, slots=True)
class Growth:
    """A counter, summed over each group, grew by more than a number within a window.

    Attributes:
        by: The labels of a group. None: each series alone.
        where: As for `Level`.
        births: True to count the first value of a series in PromQL, too, as `evaluate` always does.
    """

    metric: str
    window_s: float
    above: float
    by: tuple[str, ...] | None
    where: Matchers = ()
    births: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    @property
    def promql(self) -> str:
        series, window = f"{self.metric}{_braces(self.where)}", duration_of(self.window_s)
        text = f"increase({series}[{window}])"
        if self.births:
            text = f"({series} unless {series} offset {window}) or {text}"
        return f"{text if self.by is None else _aggregated('sum', self.by, text)} > {self.above:g}"

    def evaluate(self, samples: Samples, now_s: float) -> Found:
        groups = _groups(samples.grown(self.metric, now_s - self.window_s), self.by, self.where)
        return {key: sum(values) for key, values in groups.items() if sum(values) > self.above}


@dataclass(frozen=True, slots=True)
class Stuck:
    """A process has work under way, and a counter of it has not grown within a window."""

    work: str
    progress: str
    window_s: float
    where: Matchers = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.work, self.progress

    @property
    def promql(self) -> str:
        work = _aggregated("sum", ("instance",), self.work)
        rate = _aggregated("sum", ("instance",), f"rate({self.progress}[{duration_of(self.window_s)}])")
        return f"{work} > 0 and {rate} == 0"

    def evaluate(self, samples: Samples, now_s: float) -> Found:
        work = _groups(samples.of(self.work), ("instance",), ())
        moved = _groups(samples.grown(self.progress, now_s - self.window_s), ("instance",), ())
        return {key: sum(values) for key, values in work.items() if sum(values) > 0 and key not in moved}


Expression = Absent | Level | Growth | Stuck


def _aggregated(how: str, by: tuple[str, ...], inner: str) -> str:
    return f"{how} by ({', '.join(by)}) ({inner})" if by else f"{how}({inner})"


def _braces(where: Matchers) -> str:
    inside = ", ".join(f'{label}{sign}"{value}"' for label, sign, value in where)
    return f"{{{inside}}}" if inside else ""


def duration_of(seconds: float) -> str:
    """Return a time as Prometheus writes it."""
    return f"{seconds / 3600:g}h" if seconds % 3600 == 0 else f"{seconds / 60:g}m"


def _groups(samples: Iterable[Sample], by: tuple[str, ...] | None, where: Matchers) -> dict[Key, list[float]]:
    groups: dict[Key, list[float]] = {}
    for sample in samples:
        if is_selected(sample.labels, where):
            names = sample.labels.keys() if by is None else by
            key = tuple(sorted((name, sample.labels.get(name, "")) for name in names))
            groups.setdefault(key, []).append(sample.value)
    return groups


def is_selected(labels: Labels, where: Matchers) -> bool:
    """Return True if the labels match."""
    return all(_matches(labels, *each) for each in where)


def _matches(labels: Labels, label: str, sign: str, value: str) -> bool:
    found = labels.get(label, "")
    if sign == "=~":
        return re.fullmatch(value, found) is not None
    return (found == value) is (sign == "=")
