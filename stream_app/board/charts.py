"""The geometry of the charts.

Templates draw it as SVG that stretches; labels are text beside it and stay readable.

Coordinates are percent of the width and the height. Each chart also has its numbers as a table.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Final

import msgspec

_TICKS: Final = 4
_FILLED: Final = 0.86  # of a column's width; the rest is the gap to the next one


class Area(msgspec.Struct, frozen=True):
    """One series of a stacked chart.

    Attributes:
        key: Its name, which is also its CSS class.
        path: Its columns as an SVG path.
    """

    key: str
    label: str
    path: str
    total: int


class Band(msgspec.Struct, frozen=True):
    """A span of time with a tone (a CSS class) and what it means."""

    x: float
    width: float
    tone: str
    text: str


class Stack(msgspec.Struct, frozen=True):
    """A stacked chart over time.

    Attributes:
        areas: From the bottom.
        ticks: Labels of the y axis, from the top, at equal distances.
        times_ms: Labels of the x axis, at equal distances.
        rows: The numbers: begin of the slot (epoch ms), and a value for each area.
    """

    areas: list[Area]
    ticks: list[int]
    times_ms: list[int]
    rows: list[tuple[int, list[int]]]

    @property
    def total(self) -> int:
        return sum(area.total for area in self.areas)


class LineChart(msgspec.Struct, frozen=True):
    """A sum that rises in steps over time, with a limit and a forecast.

    Attributes:
        forecast: The polyline of the forecast; '' if there is none.
        limit_y: The position of the limit; None if there is none.
        ticks: Labels of the y axis, from the top.
        times_ms: Labels of the x axis.
        rows: (epoch ms, value).
    """

    points: str
    forecast: str
    limit_y: float | None
    ticks: list[int]
    times_ms: list[int]
    rows: list[tuple[int, int]]


Series = Sequence[tuple[str, str]]
"""Key and label, from the bottom."""


def stack(
    series: Series,
    values: Mapping[int, Mapping[str, int]],
    begin_s: int,
    step_s: int,
    slots: int,
    labels: int,
) -> Stack:
    """Return a stacked chart of the slots from `begin_s` on.

    `values`: slot (epoch s) -> key -> value. `labels` is for the x axis.
    """
    table = [
        [values.get(begin_s + n * step_s, {}).get(key, 0) for key, _ in series]
        for n in range(slots)
    ]
    top = nice(max(map(sum, table)))
    shown = [index for index in range(len(series)) if any(row[index] for row in table)]
    areas: list[Area] = []
    below = [0] * slots
    for index in shown:
        above = [under + row[index] for under, row in zip(below, table, strict=True)]
        areas.append(Area(*series[index], _columns(below, above, top), sum(above) - sum(below)))
        below = above
    rows = [
        ((begin_s + n * step_s) * 1000, [row[index] for index in shown])
        for n, row in enumerate(table)
    ]
    return Stack(areas, _ticks(top), times(begin_s, slots * step_s, labels), rows)


def line(
    rows: Sequence[tuple[int, int]],
    begin_s: int,
    end_s: int,
    limit: int | None,
    until: tuple[int, int] | None,
) -> LineChart:
    """Return a line that rises in steps, on an axis from `begin_s` to `end_s`.

    It begins with the first row.

    `rows` are (epoch ms, value), oldest first; a value lasts until the next row. `limit` is a value
    to mark, `until` is where the forecast ends: (epoch ms, value).
    """
    top = nice(max([value for _, value in rows] + [limit or 0, until[1] if until else 0]))

    def point(at_ms: int, value: float) -> str:
        x = (at_ms / 1000 - begin_s) / (end_s - begin_s) * 100
        return f"{min(100, max(0, x)):.2f},{100 - value / top * 100:.2f}"

    foreseen = f"{point(*rows[-1])} {point(*until)}" if rows and until else ""
    steps = [(at_ms, before) for (_, before), (at_ms, _) in pairwise(rows)]
    points = " ".join(
        point(*place) for pair in zip_longest(rows, steps) for place in pair if place is not None
    )
    limit_y = None if limit is None else 100 - limit / top * 100
    return LineChart(
        points,
        foreseen,
        limit_y,
        _ticks(top),
        times(begin_s, end_s - begin_s, 5),
        list(rows),
    )


def spark(values: Sequence[float]) -> str:
    """Return a polyline without axes; '' if there is nothing to see."""
    top = max(values, default=0)
    if not top or len(values) < 2:
        return ""
    step = 100 / (len(values) - 1)
    return " ".join(f"{n * step:.1f},{96 - value / top * 92:.1f}" for n, value in enumerate(values))


def trend(values: Mapping[int, float], slots: Sequence[int]) -> str:
    """Return a polyline over the slots: from the first value on, each value lasts until the next.

    '' without values.
    """
    top = max(values.values(), default=0) or 1
    points = list[str]()
    last: float | None = None
    for n, slot in enumerate(slots):
        x = n * 100 / (len(slots) - 1)
        for value in (last, values.get(slot, last)):
            point = "" if value is None else f"{x:.1f},{96 - value / top * 92:.1f}"
            if point and point not in points[-1:]:
                points.append(point)
        last = values.get(slot, last)
    return " ".join(points)


def times(begin_s: int, length_s: int, labels: int) -> list[int]:
    """Return times at equal distances, epoch ms."""
    return [(begin_s + length_s * n // (labels - 1)) * 1000 for n in range(labels)]


def nice(value: float) -> int:
    """Return a round number that is not below the value and divisible by three."""
    if value <= 3:
        return 3
    unit: float = 10.0 ** math.floor(math.log10(value / 3))
    for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10):
        third = math.ceil(factor * unit)
        if third * 3 >= value:
            return third * 3
    raise AssertionError("ten units are always enough")


def _ticks(top: int) -> list[int]:
    return [top - top * n // (_TICKS - 1) for n in range(_TICKS)]


def _columns(below: Sequence[int], above: Sequence[int], top: int) -> str:
    """Return one rectangle for each slot, narrower than the slot.

    The gaps tell neighbours of the same height apart.
    """
    width = 100 / len(below)
    bars = []
    for n, (low, high) in enumerate(zip(below, above, strict=True)):
        if high > low:
            y = 100 - high / top * 100
            height = (high - low) / top * 100
            bars.append(
                (
                    f"M{n * width:.2f} "
                    f"{y:.2f}h{width * _FILLED:.2f}v{height:.2f}h-{width * _FILLED:.2f}z"
                ),
            )
    return "".join(bars)
