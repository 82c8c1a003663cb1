"""The page of one lane: its state, budgets, last hours, and what happened to it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from stream_app.board.charts import Band, LineChart, line, times, trend
from stream_app.board.pages.lanes import hours_known, throughput
from stream_app.board.read_model.board_query import BoardQueries, DatedChange, Mark, Slot
from stream_app.board.read_model.history import DAY_S, MARK_S, MAX_CHANGES, MINUTE_S, QUARTER_S
from stream_app.board.requests import Query, span_of, word
from stream_app.board.site import (
    HOUR_S,
    Bar,
    ListedLane,
    Moment,
    PageData,
    Site,
    Tone,
    bars_of,
    forecasts_of,
    one_lane,
)
from stream_app.domain.lane.holds import PAUSED
from stream_app.domain.lane.overrides import ORDERS
from stream_app.domain.limits.meters import Meter
from stream_app.domain.views.explain import LANE_HELD, pace_text
from stream_app.domain.views.lane import BY_PERSONS, LaneChange, LaneView

MAX_SHOWN_CHANGES: Final = 30
_BREAKER: Final[dict[str, Tone]] = {
    "breaker_open": "bad",
    "breaker_half_open": "warn",
    "breaker_closed": "ok",
}
_HOLDS: Final[dict[str, Tone]] = {"held": "warn", "held_in_part": "warn", "moves": "ok"}


def lane_page(site: Site, moment: Moment, query: Query) -> PageData | None:
    """Return the page; None if there is no such workspace."""
    workspace = word(query, "workspace")
    lane = one_lane(site, moment, workspace)
    if lane is None:
        return None
    queries = site.queries
    now_ms = moment.now_ms
    view = lane.view
    policy = site.settings.workspaces.get(workspace)
    is_routine = any(
        destination.workspace == workspace and destination.kind == "routine"
        for destination in site.settings.destinations.values()
    )
    chart, span, _ = throughput(site, workspace, now_ms, span_of(query))
    bars, burns = _budgets(queries, lane, now_ms)
    changes = queries.lane_changes(workspace)
    return {
        "lane": lane,
        # A workspace has webhooks or routines, and its lane counts the submissions of both.
        "door": "Routine" if is_routine else "Webhook",
        # What bounds a lane below its rate, in the words of `explain`.
        "pace": pace_text(view) if view is not None and view.bound_by != "rate" else "",
        "chart": chart,
        "span": span,
        "held": {} if view is None else _held_destinations(view.at(now_ms)),
        "bars": bars,
        "burns": burns,
        **_last_hours(changes, queries.marks(workspace), now_ms),
        "changes": told_once(changes)[:MAX_SHOWN_CHANGES],
        "statuses": queries.status_sums(workspace),
        "yields": queries.yields(now_ms, workspace),
        "dead_letters": queries.dead_letters(site.settings.names.dlq, workspace),
        "zone": policy.time_zone if policy else "UTC",
        "kinds": ORDERS if policy else (),  # the commands that an operator can give
        "may_pause": policy is not None
        and all(finding.code != PAUSED for finding in lane.findings),
    }


def _budgets(
    queries: BoardQueries,
    lane: ListedLane,
    now_ms: int,
) -> tuple[list[Bar], list[tuple[Bar, LineChart]]]:
    """Return the budgets as bars, and beside its bar the line of each whose credits are dated."""
    view = lane.view
    if view is None:
        return bars_of(lane, {}, now_ms), []
    workspace = lane.workspace
    now_s = now_ms // 1000
    minutes = queries.credits([workspace], MINUTE_S, now_s - HOUR_S)[workspace]
    quarters = queries.credits([workspace], QUARTER_S, now_s - 26 * HOUR_S)[workspace]
    days = queries.credits([workspace], DAY_S, now_s - 35 * DAY_S)[workspace]
    bars = bars_of(lane, forecasts_of(view, minutes, now_ms), now_ms)
    dated = {"credits_day": (quarters, QUARTER_S), "credits_month": (days, DAY_S)}
    burns: list[tuple[Bar, LineChart]] = []
    for bar in bars:
        meter = lane.meters[bar.name]
        if bar.name in dated and now_ms < meter.ends_ms:
            slots, step_s = dated[bar.name]
            burns.append((bar, _burn(slots, step_s, meter, bar, now_ms)))
    return bars, burns


def _last_hours(changes: Sequence[DatedChange], marks: Sequence[Mark], now_ms: int) -> PageData:
    """Return what the page draws of the last hours: a day at most, or as much as is known of it."""
    lately = changes[:MAX_CHANGES]  # Strips need all changes of a time, and older ones have gaps.
    hours_n = hours_known(
        [*(mark.at_s for mark in marks), *(change.at_ms // 1000 for change in lately)],
        now_ms // 1000,
    )
    begin_ms = now_ms - hours_n * HOUR_S * 1000
    shown = [mark for mark in marks if mark.at_s * 1000 >= begin_ms]
    scores = {mark.at_s: mark.score for mark in shown}
    latencies = {mark.at_s: mark.p95_ms for mark in shown}
    by_hour: defaultdict[int, list[Mark]] = defaultdict(list)
    for mark in shown:
        by_hour[mark.at_s // HOUR_S * HOUR_S].append(mark)
    begin_s = begin_ms // 1000 // MARK_S * MARK_S
    slot_times = [begin_s + n * MARK_S for n in range(hours_n * HOUR_S // MARK_S + 1)]
    return {
        "breaker": _bands(lately, _BREAKER, begin_ms, now_ms),
        "holds": _bands(lately, _HOLDS, begin_ms, now_ms),
        "health": trend(scores, slot_times),
        "latency": trend(latencies, slot_times),
        # The lowest health and the highest p95 of this time. Below, they are those of each hour.
        "worst": (min(scores.values()), max(latencies.values())) if shown else None,
        "hours": [
            (at_s * 1000, min(mark.score for mark in of_hour), max(mark.p95_ms for mark in of_hour))
            for at_s, of_hour in by_hour.items()
        ],
        "hours_n": hours_n,
        "times_ms": times(begin_ms // 1000, hours_n * HOUR_S, 5),
    }


def _held_destinations(view: LaneView) -> dict[str, str]:
    """Return the destinations whose leads, or whose bulk leads, are held, and which, in words."""
    held = dict.fromkeys(view.destinations, LANE_HELD) if view.holds else {}
    for part in view.partly:
        for alias in part.destinations:
            held.setdefault(alias, "bulk held" if part.bulk else LANE_HELD)
    return held


class ToldChange(msgspec.Struct, frozen=True):
    """A change as the page tells it.

    Attributes:
        last: The newest of its kind.
        times: How often it came, with nothing that a person did in between.
        since_ms: When it came first, epoch ms.
    """

    last: DatedChange
    times: int
    since_ms: int


def told_once(changes: Iterable[DatedChange]) -> list[ToldChange]:
    """Return the changes, the newest first, without those that only repeat.

    A breaker that opens, probes and closes in turn is a few rows however long that lasts, so that
    other changes stay on the page. What a person did is never one of many, and ends what repeats.
    """
    told: list[ToldChange] = []
    places: dict[tuple[str, str], int] = {}
    for dated in changes:
        if dated.change.kind in BY_PERSONS:
            places.clear()
            told.append(ToldChange(dated, 1, dated.at_ms))
            continue
        place = places.setdefault(_what(dated.change), len(told))
        if place == len(told):
            told.append(ToldChange(dated, 1, dated.at_ms))
            continue
        row = told[place]
        told[place] = msgspec.structs.replace(row, times=row.times + 1, since_ms=dated.at_ms)
    return told


def _what(change: LaneChange) -> tuple[str, str]:
    """Return what two changes share of which one only repeats the other."""
    # The words of a breaker and of the health have the number of calls, and those of a hold may.
    counts = change.kind.startswith(("breaker_", "health_"))
    return change.kind, change.reason or ("" if counts else change.text)


def _burn(slots: Sequence[Slot], step_s: int, meter: Meter, bar: Bar, now_ms: int) -> LineChart:
    """Return the credits booked since the period began. The last point is the lane's own sum.

    What the history lacks (an opening balance, a correction, or what is older than it) was booked
    at an unknown time: the line begins with the history.
    """
    begin_s = meter.begins_ms // 1000
    end_s = meter.ends_ms // 1000
    booked: Counter[int] = Counter()
    for slot in slots:
        if begin_s <= slot.at_s:
            booked[slot.at_s] += slot.credits
    used = meter.booked
    first_s = min(booked, default=now_ms // 1000)
    missing = max(0, used - booked.total())
    rows = [((first_s if missing else begin_s) * 1000, missing)]
    total = missing
    for at_s, credits_ in sorted(booked.items()):
        total += credits_
        rows.append((min((at_s + step_s) * 1000, now_ms), min(used, total)))
    rows = [row for row in rows if row[0] < now_ms]
    rows.append((now_ms, used))
    until = None
    if (
        bar.seen is not None
        and not bar.seen.is_full
        and meter.cap is not None
        and bar.seen.is_short
    ):
        until = (bar.seen.at_ms, meter.cap)
    elif bar.per_hour and (bar.seen is None or not bar.seen.is_full):
        until = (meter.ends_ms, used + int(bar.per_hour * (meter.ends_ms - now_ms) / 3_600_000))
    return line(rows, begin_s, end_s, meter.cap, until)


def _bands(
    changes: Iterable[DatedChange],
    kinds: dict[str, Tone],
    begin_ms: int,
    now_ms: int,
) -> list[Band]:
    """Return the changes as spans from one change to the next, oldest first."""
    bands: list[Band] = []
    end_ms = now_ms
    for change in changes:  # newest first
        tone = kinds.get(change.change.kind)
        if tone is None:
            continue
        at_ms = max(change.at_ms, begin_ms)
        x = (at_ms - begin_ms) / (now_ms - begin_ms) * 100
        width = (end_ms - at_ms) / (now_ms - begin_ms) * 100
        bands.append(Band(round(x, 3), round(max(width, 0.2), 3), tone, change.change.text))
        end_ms = at_ms
        if change.at_ms <= begin_ms:
            break
    return bands[::-1]
