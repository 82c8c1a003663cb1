"""Tables of lanes: state, budgets with forecasts, and live changes. Times are in the lane's time zone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from stream_app.cli.base import show
from stream_app.cli.tables import Column, Table, show_table
from stream_app.domain.lane.budget import METERS
from stream_app.domain.lane.explain import LaneFacts
from stream_app.domain.lane.meters import Forecast, Meter
from stream_app.domain.lane_messages import LaneView
from stream_app.domain.text import count

Forecasts = Mapping[str, Mapping[str, Forecast]]
"""Workspace -> meter -> forecast."""

_BAR: Final = 10


def clock(at_ms: int, now_ms: int, tz: str) -> str:
    """Format a time of day, with its date if that is not today."""
    zone = ZoneInfo(tz)
    at, now = datetime.fromtimestamp(at_ms / 1000, zone), datetime.fromtimestamp(now_ms / 1000, zone)
    return at.strftime("%H:%M" if at.date() == now.date() else "%Y-%m-%d %H:%M")


def show_lanes(
    lanes: list[LaneFacts], forecasts: Forecasts, zones: Mapping[str, str], now_ms: int, *, works: bool = True
) -> None:
    """Print the tables of lanes. `works`: a worker runs; without one no lane moves."""
    for number, table in enumerate(lane_tables(lanes, forecasts, zones, now_ms, works=works)):
        if number:
            show("")
        show_table(table)


def lane_tables(
    lanes: list[LaneFacts], forecasts: Forecasts, zones: Mapping[str, str], now_ms: int, *, works: bool = True
) -> list[Table]:
    """Build the tables: the lanes' state, then budgets and live changes, if any."""
    known = [(view, zones.get(lane.workspace, "UTC")) for lane in lanes if (view := lane.view) is not None]
    states = Table(
        Column("lane"),
        Column("now", prose=True),
        Column("breaker", rank=3),
        Column("health", rank=4),
        Column("per second", rank=2, right=True),
        Column("waiting", rank=1, right=True),
    )
    for lane in lanes:
        states.add(*_state(lane, now_ms, zones.get(lane.workspace, "UTC"), works=works))
    budgets = Table(
        Column("lane"),
        Column("budget"),
        Column("used", right=True),
        Column("of", rank=1, right=True),
        Column("", rank=3),
        Column("at this rate", rank=2, prose=True),
    )
    for view, zone in known:
        for row in _budgets(view, forecasts.get(view.workspace, {}), now_ms, zone):
            budgets.add(view.workspace, *row)
    changed = Table(
        Column("lane"), Column("changed live"), Column("by", rank=2), Column("at", rank=3), Column("why", 1, prose=True)
    )
    for view, zone in known:
        for change in view.changes:
            at = clock(change.by.at_ms, now_ms, zone)
            changed.add(view.workspace, f"{change.key} = {_value(change.now)}", change.by.who, at, change.by.why)
    return [states, *(table for table in (budgets, changed) if table.rows)]


def _state(lane: LaneFacts, now_ms: int, zone: str, *, works: bool) -> list[str]:
    view, waiting = lane.view, f"{sum(lane.waiting.values()):,}" if lane.waiting else ""
    if view is None:
        return [lane.workspace, "nothing sent yet", "", "", "", waiting]
    forced = {"auto": "", "shadow": " (shadow)"}.get(view.mode, " (forced)")
    health = f"{view.health} {view.score:g}, p95 {view.p95_ms} ms"
    if view.health == "insufficient_data":
        health = f"{count(view.calls, 'call')}: too few"
    breaker = view.breaker.replace("_", " ") + forced
    return [
        lane.workspace,
        _now(lane, view, now_ms, zone, works=works),
        breaker,
        health,
        f"{view.rate_per_s:g}",
        waiting,
    ]


def _now(lane: LaneFacts, view: LaneView, now_ms: int, zone: str, *, works: bool) -> str:
    shared = f", beside {lane.neighbours}" if lane.shared_with else ""
    if not view.holds:
        return f"{'moves' if works else 'no worker runs'}{_but(view, now_ms)}{shared}"
    if view.paused_by is not None:
        return f"paused since {clock(view.since_ms, now_ms, zone)} by {view.paused_by.who}: {view.paused_by.why}"
    if view.until_ms > now_ms and view.mode != "open":
        return f"{view.holds} until {clock(view.until_ms, now_ms, zone)}"
    return f"{view.holds} since {clock(view.since_ms or view.at_ms, now_ms, zone)}"


def _but(view: LaneView, now_ms: int) -> str:
    """Name the part of the lane's leads that does not move."""
    parts = [part for part in view.partly if not 0 < part.until_ms <= now_ms]
    return "".join(
        f", but not {'bulk of ' if part.bulk else ''}{' and '.join(part.destinations)} ({part.holds})" for part in parts
    )


def _budgets(view: LaneView, forecasts: Mapping[str, Forecast], now_ms: int, zone: str) -> Iterator[list[str]]:
    for name, words in METERS.items():
        meter = view.meters.get(name)
        if meter is None or meter.cap is None:
            continue
        used = meter.at(now_ms).used
        foreseen = _foreseen(meter.at(now_ms), forecasts.get(name), now_ms, zone)
        yield [words, f"{used:,}", f"{meter.cap:,}", _bar(used, meter.cap), foreseen]


def _foreseen(meter: Meter, forecast: Forecast | None, now_ms: int, zone: str) -> str:
    if meter.left == 0:
        return "used up"
    if forecast is None or not forecast.per_hour:
        return ""
    rate = f"{forecast.per_hour:,.0f} an hour"
    if forecast.empty_at_ms is not None:
        return f"{rate}: end {clock(forecast.empty_at_ms, now_ms, zone)}"
    return f"{rate}: last until {clock(meter.ends_ms, now_ms, zone)}"


def _value(value: float | bool | None) -> str:
    return "no limit" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()


def _bar(used: int, cap: int) -> str:
    full = min(_BAR, max(0, round(_BAR * used / cap))) if cap else _BAR
    return "█" * full + "░" * (_BAR - full)
