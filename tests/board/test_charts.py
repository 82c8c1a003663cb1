"""The geometry of charts, against the numbers that they draw."""

import re
from itertools import accumulate, groupby, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.board.charts import _FILLED, Area, Stack, line, nice, spark, stack, trend

RECTANGLE = re.compile(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-([\d.]+)z")
KEYS = ("a", "b", "c", "d")


def rectangles(area: Area) -> dict[int, list[float]]:
    """Return the columns of an area by the percent of the width at which they begin, times 100."""
    assert RECTANGLE.sub("", area.path) == ""
    columns = (list(map(float, match.groups())) for match in RECTANGLE.finditer(area.path))
    return {round(x * 100): rest for x, *rest in columns}


def near(value: float) -> Any:
    return pytest.approx(value, abs=0.00501)


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=1, max_size=6),
    st.integers(2, 9),
    st.sampled_from([60, 900]),
)
def test_a_stack_draws_its_table(table: list[list[int]], labels: int, step_s: int) -> None:
    begin_s = 1_790_038_000
    slots = len(table)
    values = {
        begin_s + slot * step_s: dict(zip(KEYS, row, strict=True)) for slot, row in enumerate(table)
    }
    values |= {begin_s - step_s: {"a": 900}, begin_s + slots * step_s: {"a": 900}}
    series = [(key, f"label of {key}") for key in KEYS]
    chart: Stack = stack(series, values, begin_s, step_s, slots, labels)
    shown = [place for place in range(4) if any(row[place] for row in table)]
    assert [(area.key, area.label) for area in chart.areas] == [series[place] for place in shown]
    assert [area.total for area in chart.areas] == [
        sum(row[place] for row in table) for place in shown
    ]
    assert chart.total == sum(map(sum, table))
    top = chart.ticks[0]
    assert top == nice(max(map(sum, table)))
    assert chart.ticks == [top, top * 2 // 3, top // 3, 0]
    for place, area in zip(shown, chart.areas, strict=True):
        assert rectangles(area) == {
            round(round(slot * 100 / slots, 2) * 100): [
                near(100 - sum(row[: place + 1]) / top * 100),
                near(100 / slots * _FILLED),
                near(row[place] / top * 100),
                near(100 / slots * _FILLED),
            ]
            for slot, row in enumerate(table)
            if row[place]
        }
    assert chart.rows == [
        ((begin_s + slot * step_s) * 1_000, [row[place] for place in shown])
        for slot, row in enumerate(table)
    ]
    assert len(chart.times_ms) == labels
    assert chart.times_ms[0] == begin_s * 1_000
    assert chart.times_ms[-1] == (begin_s + slots * step_s) * 1_000
    assert max(gap := [after - before for before, after in pairwise(chart.times_ms)]) <= (
        min(gap) + 1_000
    )


@given(st.floats(0, 1e9))
def test_a_scale_is_round_and_not_much_too_long(value: float) -> None:
    top = nice(value)
    assert top >= value
    assert top % 3 == 0
    assert top <= max(3, 1.5 * value + 3)
    assert isinstance(top, int)


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in text.split())]


@given(st.lists(st.integers(0, 90), min_size=2, max_size=30))
def test_a_small_line_goes_through_its_values(values: list[int]) -> None:
    drawn = points(spark(values))
    if not any(values):
        assert drawn == []
        return
    last = len(values) - 1
    heights = [96 - value / max(values) * 92 for value in values]
    assert [x for x, _ in drawn] == [round(place * 100 / last, 1) for place in range(last + 1)]
    assert [y for _, y in drawn] == pytest.approx(heights, abs=0.0501)


@given(st.dictionaries(st.integers(-2, 11), st.integers(0, 90)))
def test_a_trend_keeps_each_value_until_the_next(values: dict[int, int]) -> None:
    slots = range(10)
    top = max(values.values(), default=0) or 1
    known: list[str] = []
    last: int | None = None
    for slot in slots:
        now = values.get(slot, last)
        steps = (value for value in (last, now) if value is not None)
        known += [f"{slot * 100 / 9:.1f},{96 - value / top * 92:.1f}" for value in steps]
        last = now
    assert trend(values, slots).split() == [point for point, _ in groupby(known)]


@given(
    st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 50)), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(0, 90)),
    st.one_of(st.none(), st.tuples(st.integers(1_000, 2_000), st.integers(0, 120))),
)
def test_a_line_rises_in_steps_through_its_rows(
    steps: list[tuple[int, int]],
    limit: int | None,
    until: tuple[int, int] | None,
) -> None:
    begin_s = 1_790_038_000
    sums = list(accumulate(rise for _, rise in steps))
    at_s = sorted(after_s for after_s, _ in steps)
    rows = [((begin_s + at) * 1_000, value) for at, value in zip(at_s, sums, strict=True)]
    ends = None if until is None else ((begin_s + until[0]) * 1_000, until[1])
    drawn = line(rows, begin_s, begin_s + 2_000, limit, ends)
    top = nice(max(sums[-1], limit or 0, until[1] if until else 0))

    def at(second: int, value: float) -> tuple[Any, Any]:
        return near(second / 20), near(100 - value / top * 100)

    expected = [at(at_s[0], sums[0])]
    for (_, before), (second, value) in pairwise(zip(at_s, sums, strict=True)):
        expected += [at(second, before), at(second, value)]
    assert points(drawn.points) == expected
    assert points(drawn.forecast) == ([] if until is None else [at(at_s[-1], sums[-1]), at(*until)])
    assert drawn.limit_y == (None if limit is None else near(100 - limit / top * 100))
    assert drawn.rows == rows
    assert drawn.ticks == [top, top * 2 // 3, top // 3, 0]
    assert drawn.times_ms == [(begin_s + number * 500) * 1_000 for number in range(5)]
