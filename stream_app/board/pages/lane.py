"""Lane: everything about one workspace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from stream_app.board.charts import Band, Line, Stack, line, trend
from stream_app.board.pages.now import Span, throughput
from stream_app.board.read_model.board_query import DatedChange, Mark, Slot
from stream_app.board.read_model.history import DAY_S, MARK_S, MINUTE_S, QUARTER_S
from stream_app.board.site import HOUR_S, Bar, Lane, Moment, Site, Tone, bars_of, forecasts_of, one_lane
from stream_app.client.answers import StatusCount
from stream_app.client.commands import LANE_KINDS
from stream_app.domain.lane import calendar
from stream_app.domain.lane.budget import MeterName
from stream_app.domain.lane.meters import Meter
from stream_app.domain.lane_messages import CommandKind
from stream_app.domain.policy import Workspace

MOST_CHANGES: Final = 30
_HOURS: Final = 24
_BREAKER: Final[dict[str, Tone]] = {"breaker_open": "bad", "breaker_half_open": "warn", "breaker_closed": "ok"}


class Burn(msgspec.Struct, frozen=True):
    """The credits of a day or month so far, with the cap and the forecast."""

    bar: Bar
    line: Line


class LanePage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        burns: Of the day and of the month.
        breaker: The last day's circuit breaker as spans; `holds`: the same for holds.
        health: Health over the last day as a polyline, `latency` the p95.
        worst: The lowest health and the highest p95 of that time.
        hours: The same of each hour: its begin (epoch ms), health, p95.
        statuses: Records by status.
        dead_letters: Of this workspace.
        zone: The time zone of its budget.
        kinds: The commands that an operator can give.
    """

    lane: Lane
    chart: Stack
    span: Span
    bars: list[Bar]
    burns: list[Burn]
    breaker: list[Band]
    holds: list[Band]
    health: str
    latency: str
    worst: tuple[float, int] | None
    hours: list[tuple[int, float, int]]
    times_ms: list[int]
    changes: list[DatedChange]
    statuses: list[StatusCount]
    dead_letters: int
    zone: str
    kinds: tuple[CommandKind, ...]


def lane_page(site: Site, moment: Moment, workspace: str, span: Span | None) -> LanePage | None:
    """Return the page; None if there is no such workspace."""
    lane = one_lane(site, moment, workspace)
    if lane is None:
        return None
    queries, now_ms, now_s = site.queries, moment.now_ms, moment.now_ms // 1000
    policy = site.settings.workspaces.get(workspace)
    chart, span, _ = throughput(site, workspace, now_ms, span)
    minutes = queries.history([workspace], MINUTE_S, now_s - HOUR_S)[workspace]
    quarters = queries.history([workspace], QUARTER_S, now_s - 26 * HOUR_S)[workspace]
    days = queries.history([workspace], DAY_S, now_s - 35 * DAY_S)[workspace]
    bars: list[Bar] = []
    burns: list[Burn] = []
    if lane.view is not None:
        bars = bars_of(lane.view, forecasts_of(lane.view, minutes, now_ms), now_ms)
        periods: tuple[tuple[MeterName, list[Slot], int], ...] = (
            ("credits_day", quarters, QUARTER_S),
            ("credits_month", days, DAY_S),
        )
        for name, slots, step_s in periods:
            meter = lane.view.meters.get(name)
            bar = next((bar for bar in bars if bar.name == name), None)
            if meter is not None and bar is not None and now_ms < meter.ends_ms:
                begin_ms = _begin_ms(name, meter, policy)
                burns.append(Burn(bar, _burn(slots, step_s, meter, bar, begin_ms, now_ms)))
    changes = queries.lane_changes(workspace)
    begin_ms = now_ms - _HOURS * HOUR_S * 1000
    marks = [mark for mark in queries.marks(workspace) if mark.at_s * 1000 >= begin_ms]
    begin_s, slots_n = begin_ms // 1000 // MARK_S * MARK_S, _HOURS * HOUR_S // MARK_S
    scores, latencies = {mark.at_s: mark.score for mark in marks}, {mark.at_s: mark.p95_ms for mark in marks}
    hours: dict[int, list[Mark]] = {}
    for mark in marks:
        hours.setdefault(mark.at_s // HOUR_S * HOUR_S, []).append(mark)
    slot_times = [begin_s + n * MARK_S for n in range(slots_n + 1)]
    return LanePage(
        lane=lane,
        chart=chart,
        span=span,
        bars=bars,
        burns=burns,
        breaker=_bands(changes, _BREAKER, begin_ms, now_ms),
        holds=_bands(changes, {"held": "warn", "moves": "ok"}, begin_ms, now_ms),
        health=trend(scores, slot_times),
        latency=trend(latencies, slot_times),
        worst=(min(scores.values()), max(latencies.values())) if marks else None,
        hours=[
            (at_s * 1000, min(mark.score for mark in found), max(mark.p95_ms for mark in found))
            for at_s, found in hours.items()
        ],
        times_ms=[begin_ms + n * 6 * HOUR_S * 1000 for n in range(5)],
        changes=changes[:MOST_CHANGES],
        statuses=queries.status_sums(workspace),
        dead_letters=queries.dead_letters(site.settings.names.dlq, workspace).dead_letters,
        zone=policy.time_zone if policy else "UTC",
        kinds=LANE_KINDS if policy else (),
    )


def _begin_ms(name: MeterName, meter: Meter, policy: Workspace | None) -> int:
    """Return when the meter's day or month began. A day has 23 or 25 hours where clocks change."""
    zone, billing_day = (policy.time_zone, policy.budget.billing_day) if policy else ("UTC", 1)
    periods = calendar.at(zone, billing_day, meter.ends_ms - 1)
    return periods.day_start_ms if name == "credits_day" else periods.month_start_ms


def _burn(slots: Sequence[Slot], step_s: int, meter: Meter, bar: Bar, begin_ms: int, now_ms: int) -> Line:
    """Return the credits booked since the period began. The last point is the lane's own sum."""
    begin_s, end_s = begin_ms // 1000, meter.ends_ms // 1000
    booked: Counter[int] = Counter()
    for slot in slots:
        if begin_s <= slot.at_s:
            booked[slot.at_s] += slot.credits
    rows, total = [(begin_s * 1000, 0)], 0
    for at_s, credits_ in sorted(booked.items()):
        total += credits_
        rows.append((min((at_s + step_s) * 1000, now_ms), total))
    used = meter.booked
    missing = used - total  # an opening balance, a correction, or what is older than the history
    rows = [(at_ms, min(used, value + max(0, missing))) for at_ms, value in rows if at_ms < now_ms]
    rows.append((now_ms, used))
    until = None
    if bar.empty_at_ms is not None and meter.cap is not None and bar.empty_at_ms > now_ms:
        until = (bar.empty_at_ms, meter.cap)
    elif bar.per_hour and bar.empty_at_ms is None:
        until = (meter.ends_ms, used + int(bar.per_hour * (meter.ends_ms - now_ms) / 3_600_000))
    return line(rows, begin_s, end_s, meter.cap, until)


def _bands(changes: Iterable[DatedChange], kinds: dict[str, Tone], begin_ms: int, now_ms: int) -> list[Band]:
    """Return the changes as spans from one change to the next, oldest first."""
    found: list[Band] = []
    end_ms = now_ms
    for each in changes:  # newest first
        tone = kinds.get(each.change.kind)
        if tone is None:
            continue
        at_ms = max(each.at_ms, begin_ms)
        x, width = (at_ms - begin_ms) / (now_ms - begin_ms) * 100, (end_ms - at_ms) / (now_ms - begin_ms) * 100
        found.append(Band(round(x, 3), round(max(width, 0.2), 3), tone, each.change.text))
        end_ms = at_ms
        if each.at_ms <= begin_ms:
            break
    return found[::-1]
