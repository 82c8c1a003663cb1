"""What `stream-app lanes` shows: tables of lanes, destinations, runs, budgets and live changes."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from stream_app.cli.output import show
from stream_app.cli.tables import Column, Table
from stream_app.config import Settings
from stream_app.domain.lane.holds import PROBE_DUE, ends_by_probe, time_words
from stream_app.domain.lane.overrides import setting_text
from stream_app.domain.limits.budget import METERS
from stream_app.domain.limits.meters import Forecast
from stream_app.domain.model.text import count, rate_text
from stream_app.domain.views.explain import (
    HELD_IN_PART,
    VIEW_UNREADABLE,
    LaneFacts,
    duration,
    open_runs,
    outlook,
)
from stream_app.domain.views.lane import LaneView

Forecasts = Mapping[str, Mapping[str, Forecast]]
"""Workspace -> meter -> forecast."""

_BAR: Final = 10


def clock(at_ms: int, now_ms: int, tz: str, time: str = "%H:%M") -> str:
    """Format a time of day, with its date if that is not today."""
    zone = ZoneInfo(tz)
    at = datetime.fromtimestamp(at_ms / 1000, zone)
    now = datetime.fromtimestamp(now_ms / 1000, zone)
    return at.strftime(time if at.date() == now.date() else f"%Y-%m-%d {time}")


def second(at_ms: int, now_ms: int, tz: str) -> str:
    """Format a time of day with its seconds, with its date if that is not today."""
    return clock(at_ms, now_ms, tz, "%H:%M:%S")


def show_lanes(
    settings: Settings,
    lanes: list[LaneFacts],
    forecasts: Forecasts,
    now_ms: int,
    *,
    works: bool = True,
) -> None:
    """Print the tables of lanes, one below the other, with times in each workspace's time zone."""
    zones = {name: workspace.time_zone for name, workspace in settings.workspaces.items()}
    for number, table in enumerate(lane_tables(lanes, forecasts, zones, now_ms, works=works)):
        if number:
            show("")
        table.show()


def lane_tables(
    lanes: list[LaneFacts],
    forecasts: Forecasts,
    zones: Mapping[str, str],
    now_ms: int,
    *,
    works: bool = True,
) -> list[Table]:
    """Build the tables: the lanes' state, then budgets and live changes, if any.

    `works` says that a worker runs; without one no lane moves.
    """
    known = [
        (view, zones.get(lane.workspace, "UTC"))
        for lane in lanes
        if (view := lane.view) is not None
    ]
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
    destinations = Table(
        Column("lane"),
        Column("destination"),
        Column("health"),
        Column("breaker", rank=1),
    )
    for view, _ in known:
        # A single destination has the health of its lane.
        for alias, seen in view.destinations.items() if len(view.destinations) > 1 else ():
            health = _health(seen.health, seen.score, seen.calls)
            destinations.add(view.workspace, alias, health, seen.breaker.replace("_", " "))
    runs = Table(Column("lane"), Column("runs", prose=True), Column("next poll", rank=1))
    for view, zone in known:
        if (finding := open_runs(view, now_ms)) is not None:
            polled = second(finding.poll_ms, now_ms, zone) if finding.poll_ms else ""
            runs.add(view.workspace, finding.what, polled)
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
        Column("lane"),
        Column("changed live"),
        Column("by", rank=2),
        Column("at", rank=3),
        Column("why", 1, prose=True),
    )
    for view, zone in known:
        for change in view.changes:
            at = clock(change.by.at_ms, now_ms, zone)
            changed.add(
                view.workspace,
                f"{change.key} = {setting_text(change.now)}",
                change.by.who,
                at,
                change.by.why,
            )
    return [states, *(table for table in (destinations, runs, budgets, changed) if table.rows)]


def _health(health: str, score: float, calls: int) -> str:
    if health == "insufficient_data":
        return f"{count(calls, 'call')}: too few"
    return f"{health} {score:g}"


def _state(lane: LaneFacts, now_ms: int, zone: str, *, works: bool) -> list[str]:
    view = lane.view.at(now_ms) if lane.view is not None else None
    records = sum(lane.waiting.values())
    waiting = ""
    if lane.waiting:
        waiting = waiting_text(
            records,
            lane.oldest_ms,
            now_ms,
            shared=lane.is_shared,
            at_most=lane.at_most,
        )
    if lane.view_unreadable:
        return [lane.workspace, VIEW_UNREADABLE, "", "", "", waiting]
    if view is None:
        return [lane.workspace, "nothing sent yet", "", "", "", waiting]
    forced = {"auto": "", "shadow": " (shadow)"}.get(view.mode, " (forced)")
    health = _health(view.health, view.score, view.calls)
    if view.health != "insufficient_data":
        health += f", p95 {view.p95_ms} ms"
    now = _now(lane, view, now_ms, zone, works=works)
    breaker = view.breaker.replace("_", " ") + forced
    return [lane.workspace, now, breaker, health, rate_text(view.rate_per_s), waiting]


def waiting_text(records: int, oldest_ms: int, now_ms: int, *, shared: bool, at_most: bool) -> str:
    """Say how many records wait and for how long.

    Where the partition is `shared`, the text says that they may be of other lanes.
    """
    age = f", for {duration((now_ms - oldest_ms) / 1000)}" if records and oldest_ms else ""
    return (
        f"{'up to ' if at_most else ''}{records:,}"
        f"{' in its partition' if records and shared else ''}{age}"
    )


def _now(lane: LaneFacts, view: LaneView, now_ms: int, zone: str, *, works: bool) -> str:
    shared = f", shares its partition with {lane.neighbours}" if lane.shared_with else ""
    if not view.holds:
        state = _held_in_part(view) if view.partly else "running"
        if not works:
            state = f"no worker runs; {state}" if view.partly else "no worker runs"
        return f"{state}{shared}"
    if view.until_ms:
        words = time_words(until_probe=ends_by_probe(view.holds))
        return f"{view.holds}, {words} {second(view.until_ms, now_ms, zone)}"
    since = f"{view.holds} since {second(view.since_ms or view.at_ms, now_ms, zone)}"
    if view.paused_by is not None:
        return f"{since} by {view.paused_by.who}: {view.paused_by.why}"
    return f"{since}; {PROBE_DUE}" if view.probe_due else since


def _held_in_part(view: LaneView) -> str:
    """Name the part of the lane's leads that does not move."""
    parts = (
        f"{'bulk of ' if part.bulk else ''}{' and '.join(part.destinations)} ({part.holds})"
        for part in view.partly
    )
    return f"{HELD_IN_PART}: {', '.join(parts)}"


def _budgets(
    view: LaneView,
    forecasts: Mapping[str, Forecast],
    now_ms: int,
    zone: str,
) -> Iterator[list[str]]:
    capped = {name: meter for name, meter in view.meters.items() if meter.cap is not None}
    if not capped:
        meter = view.meters.get("credits_day")
        yield [
            METERS["credits_day"],
            f"{meter.at(now_ms).used:,}" if meter else "",
            "unlimited",
            "",
            "",
        ]
    for name, words in METERS.items():
        meter = capped.get(name)
        if meter is None or meter.cap is None:
            continue
        used = meter.at(now_ms).used
        seen = outlook(view, name, forecasts.get(name), now_ms)
        words_of_it = f"{seen.says} {clock(seen.at_ms, now_ms, zone)}" if seen else ""
        yield [words, f"{used:,}", f"{meter.cap:,}", _bar(used, meter.cap), words_of_it]


def _bar(used: int, cap: int) -> str:
    full = min(_BAR, max(0, round(_BAR * used / cap))) if cap else _BAR
    return "█" * full + "░" * (_BAR - full)
