"""The pages of lanes: the state of all of them now, their list, everything about one."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from stream_app.board.charts import Band, LineChart, Stack, line, stack, times, trend
from stream_app.board.formats import lanes_path, noun
from stream_app.board.read_model.board_query import DatedChange, Mark, Slot
from stream_app.board.read_model.history import DAY_S, MARK_S, MAX_CHANGES, MINUTE_S, QUARTER_S
from stream_app.board.read_model.query import last_day_s
from stream_app.board.requests import ChartSpan, Query, one_of, span_of, word
from stream_app.board.site import (
    HOUR_S,
    NOT_READABLE,
    ROWS,
    Bar,
    ListedLane,
    Moment,
    Overview,
    PageData,
    Site,
    Tone,
    bars_of,
    forecasts_of,
    lane_rows,
    one_lane,
    overview,
    untaken,
)
from stream_app.domain.callback.interpret import OVERDUE
from stream_app.domain.lane.overrides import ORDERS
from stream_app.domain.limits.meters import Meter
from stream_app.domain.views.explain import HELD_IN_PART, LANE_HELD, named_first, pace_text
from stream_app.domain.views.lane import BY_PERSONS, LaneChange, LaneView
from stream_app.kafka.backlog import sum_of

MAX_SHOWN_LANES: Final = 20
_OUTCOMES: Final = {
    "enriched": ("enriched", "partial", "accepted", "confirmed"),
    "cache": ("served_from_cache", "served_locally"),
    "nodata": ("no_data",),
    "failed": ("enrich_error", "parked"),
    "refused": ("rejected_invalid", "suppressed", "expired", "duplicate", "replaced"),
}
SERIES: Final = (
    ("enriched", "enriched"),
    ("cache", "answered from the cache"),
    ("nodata", "answered: no data"),
    ("failed", "failed or parked"),
    ("refused", "rejected or duplicate"),
)
_SERIES_OF: Final = {status: key for key, statuses in _OUTCOMES.items() for status in statuses}


def now_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page.

    The chart covers the span of the query; without one the day, or the hour if nothing is older.
    """
    seen = overview(site, moment)
    queries = site.queries
    names = site.settings.names
    chart, span, ended = throughput(site, "", moment.now_ms, span_of(query))
    dlq = queries.dead_letters(names.dlq)
    held = [lane for lane in seen.held if any(finding.holds for finding in lane.findings)]
    part = seen.held_in_part
    shown = {lane.workspace for lane in held}
    others = [lane for lane in seen.lanes if lane.workspace not in shown]
    moving = sorted(others, key=lambda lane: (-lane.waiting, lane.workspace))
    heading, tone = _heading(seen, is_asking=moment.is_asking)
    credits_, without_limit = _credits(seen, moment.now_ms)
    return {
        "heading": heading,
        "tone": tone,
        "is_new": bool(seen.lanes) and not held and all(lane.view is None for lane in seen.lanes),
        "seen": seen,
        "replays_stand": any(finding.is_about_replays for finding in seen.everywhere),
        "held": held[:MAX_SHOWN_LANES],
        "held_count": len(held) - part,
        "part_count": part,
        "need_person": sum(lane.needs_a_person for lane in held),
        "lanes": lane_rows(site, moment, [*held, *moving][:MAX_SHOWN_LANES]),
        "chart": chart,
        "span": span,
        "ended_day": ended,
        "credits": credits_,
        "credits_without_limit": without_limit,
        "saved": sum(day.saved for day in queries.days("")),
        "waiting": None if (waiting := untaken(site, moment)) is None else sum_of(waiting),
        "parked": seen.in_columns("parked"),
        "dlq": dlq,
        "overdue": sum(count.leads for count in seen.counts if count.status in OVERDUE),
        "overdue_statuses": ",".join(sorted(OVERDUE)),
        "top_cause": next((cause for cause in dlq.causes if cause.open), None),
    }


def throughput(
    site: Site,
    workspace: str,
    now_ms: int,
    span: ChartSpan | None,
) -> tuple[Stack, ChartSpan, int]:
    """Return the chart of leads that ended.

    Returns:
        The chart, the time that it covers, and how many leads ended in the last day.
    """
    now_s = now_ms // 1000
    day_s = last_day_s(now_ms)
    quarters = site.queries.came_to_rest([workspace], QUARTER_S, day_s)[workspace]
    ended = sum(slot.leads for slot in quarters)
    if span is None:
        span = "hour" if min((slot.at_s for slot in quarters), default=0) > now_s - 3_600 else "day"
    if span == "day":
        known = _hours_known([slot.at_s for slot in quarters], now_s) * 4 if quarters else 96
        begin_s = day_s + (96 - known) * QUARTER_S
        return (
            stack(SERIES, _by_slot(quarters), begin_s, QUARTER_S, known, 9 if known == 96 else 5),
            span,
            ended,
        )
    begin_s = now_s // MINUTE_S * MINUTE_S - 59 * MINUTE_S
    minutes = site.queries.came_to_rest([workspace], MINUTE_S, begin_s)[workspace]
    return stack(SERIES, _by_slot(minutes), begin_s, MINUTE_S, 60, 7), span, ended


def _by_slot(slots: list[Slot]) -> dict[int, dict[str, int]]:
    by_slot: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for slot in slots:
        key = _SERIES_OF[slot.status]
        by_slot[slot.at_s][key] = by_slot[slot.at_s].get(key, 0) + slot.leads
    return by_slot


def _heading(seen: Overview, *, is_asking: bool) -> tuple[list[str | tuple[int, str]], Tone]:
    """Return the answer to "does it work?": texts, and counts with what they link to."""
    lanes = len(seen.lanes)
    held = len(seen.held)
    all_lanes = (lanes, lanes_path())
    if any(finding.code == "no_worker" for finding in seen.everywhere):
        return ["Nothing is sent: no worker runs"], "bad"
    if held:  # The lanes say so themselves, whatever Kafka answers about what waits for them.
        part = seen.held_in_part
        whole = held - part
        first, word = named_first(whole, part)
        words = f" {noun(lanes, 'lane')} {noun(first, 'is', 'are')} {word}"
        heading: list[str | tuple[int, str]] = [
            (first, lanes_path(state=_FILTER_OF.get(word, word))),
            " of ",
            all_lanes,
            words,
        ]
        if whole and part:
            heading += [", ", (part, lanes_path(state="part")), " more in part"]
        return heading, "bad"
    if is_asking:
        return ["Asking Kafka"], "idle"
    if not lanes:
        return ["No workspace is configured"], "idle"
    if all(lane.view is None for lane in seen.lanes):
        if any(lane.waiting for lane in seen.lanes):
            return ["No waiting lead was taken yet"], "idle"
        return ["Ready: no lead has come yet"], "idle"
    return (
        ["The lane is running"] if lanes == 1 else ["All ", all_lanes, " lanes are running"]
    ), "ok"


def _credits(seen: Overview, now_ms: int) -> tuple[Bar, int]:
    """Return the day's credits of the lanes with a limit, and of the lanes without one.

    If no lane has a limit, the bar is empty and has the credits of all lanes.
    """
    days = (lane.meters.get("credits_day") for lane in seen.lanes)
    meters = [day.at(now_ms) for day in days if day is not None]
    capped = [meter for meter in meters if meter.cap is not None]
    cap = sum(meter.cap for meter in meters if meter.cap is not None)
    reserved = sum(meter.reserved for meter in capped)
    booked = sum(meter.booked for meter in capped)
    spent_share = min(100.0, booked / cap * 100) if cap else 0.0
    reserved_share = min(100.0 - spent_share, reserved / cap * 100) if cap else 0.0
    tone: Tone = "warn" if spent_share + reserved_share >= 80 else "ok"
    without_limit = sum(meter.booked for meter in meters if meter.cap is None)
    used = booked if capped else without_limit
    spent_share = round(spent_share, 2)
    reserved_share = round(reserved_share, 2)
    total = Bar(
        "credits_day",
        "credits today",
        used,
        reserved,
        cap or None,
        spent_share,
        reserved_share,
        tone,
    )
    return total, without_limit if capped else 0


LANE_FILTERS: Final = ("held", "part", "running", "idle", "unreadable")
"""The filters that sort all lanes."""
NEED_PERSON: Final = "person"
"""The filter for the held lanes that need a person."""


def lanes_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page of lanes: those in a state whose names begin with `begins`.

    The state is a filter, or '' for all.
    """
    state = one_of(query, "state", (*LANE_FILTERS, NEED_PERSON))
    begins = word(query, "begins")
    after = word(query, "after")
    named = [
        lane
        for lane in overview(site, moment).lanes
        if lane.workspace.lower().startswith(begins.lower())
    ]
    counts = dict.fromkeys(LANE_FILTERS, 0)
    for lane in named:
        counts[_filter_of(lane)] += 1
    persons = [lane for lane in named if lane.needs_a_person]
    matching = (
        persons
        if state == NEED_PERSON
        else [lane for lane in named if state in ("", _filter_of(lane))]
    )
    rest = [lane for lane in matching if lane.workspace > after]
    page = lane_rows(site, moment, rest[:ROWS])
    return {
        "lanes": page,
        "counts": counts,
        "need_person": len(persons),
        "state": state,
        "begins": begins,
        "matches": len(matching),
        "after": page[-1].workspace if len(rest) > ROWS else "",
    }


_FILTER_OF: Final = {NOT_READABLE: "unreadable", HELD_IN_PART: "part"}


def _filter_of(lane: ListedLane) -> str:
    if lane.state in _FILTER_OF:
        return _FILTER_OF[lane.state]
    return {"ok": "running", "idle": "idle"}.get(lane.tone, "held")


MAX_SHOWN_CHANGES: Final = 30
_HOURS: Final = 24
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
    now_s = moment.now_ms // 1000
    policy = site.settings.workspaces.get(workspace)
    chart, span, _ = throughput(site, workspace, now_ms, span_of(query))
    minutes = queries.credits([workspace], MINUTE_S, now_s - HOUR_S)[workspace]
    quarters = queries.credits([workspace], QUARTER_S, now_s - 26 * HOUR_S)[workspace]
    days = queries.credits([workspace], DAY_S, now_s - 35 * DAY_S)[workspace]
    bars = bars_of(lane, forecasts_of(lane.view, minutes, now_ms) if lane.view else {}, now_ms)
    slots_of = {"credits_day": (quarters, QUARTER_S), "credits_month": (days, DAY_S)}
    burns = [
        (bar, _burn(*slots_of[bar.name], lane.meters[bar.name], bar, now_ms))
        for bar in bars
        if lane.view is not None and bar.name in slots_of and now_ms < lane.meters[bar.name].ends_ms
    ]
    changes = queries.lane_changes(workspace)
    lately = changes[:MAX_CHANGES]  # Strips need all changes of a time, and older ones have gaps.
    marks = queries.marks(workspace)
    hours_n = _hours_known(
        [*(mark.at_s for mark in marks), *(change.at_ms // 1000 for change in lately)],
        now_s,
    )
    begin_ms = now_ms - hours_n * HOUR_S * 1000
    marks = [mark for mark in marks if mark.at_s * 1000 >= begin_ms]
    begin_s = begin_ms // 1000 // MARK_S * MARK_S
    slots_n = hours_n * HOUR_S // MARK_S
    scores = {mark.at_s: mark.score for mark in marks}
    latencies = {mark.at_s: mark.p95_ms for mark in marks}
    hours: dict[int, list[Mark]] = {}
    for mark in marks:
        hours.setdefault(mark.at_s // HOUR_S * HOUR_S, []).append(mark)
    slot_times = [begin_s + n * MARK_S for n in range(slots_n + 1)]
    return {
        "lane": lane,
        # What bounds a lane below its rate, in the words of `explain`.
        # A workspace has webhooks or routines, and its lane counts the submissions of both.
        "door": "Routine"
        if any(
            destination.workspace == workspace and destination.kind == "routine"
            for destination in site.settings.destinations.values()
        )
        else "Webhook",
        "pace": pace_text(lane.view) if lane.view and lane.view.bound_by != "rate" else "",
        "chart": chart,
        "span": span,
        "held": {} if lane.view is None else _held_destinations(lane.view.at(now_ms)),
        "bars": bars,
        "burns": burns,
        "breaker": _bands(lately, _BREAKER, begin_ms, now_ms),
        "holds": _bands(lately, _HOLDS, begin_ms, now_ms),
        "health": trend(scores, slot_times),
        "latency": trend(latencies, slot_times),
        # The lowest health and the highest p95 of the last day. Below, they are those of each hour.
        "worst": (min(scores.values()), max(latencies.values())) if marks else None,
        "hours": [
            (at_s * 1000, min(mark.score for mark in of_hour), max(mark.p95_ms for mark in of_hour))
            for at_s, of_hour in hours.items()
        ],
        "hours_n": hours_n,
        "times_ms": times(begin_ms // 1000, hours_n * HOUR_S, 5),
        "changes": told_once(changes)[:MAX_SHOWN_CHANGES],
        "statuses": queries.status_sums(workspace),
        "yields": queries.yields(now_ms, workspace),
        "dead_letters": queries.dead_letters(site.settings.names.dlq, workspace),
        "zone": policy.time_zone if policy else "UTC",
        "kinds": ORDERS if policy else (),  # the commands that an operator can give
        "may_pause": policy is not None
        and all(finding.code != "paused" for finding in lane.findings),
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


def _hours_known(times_s: Collection[int], now_s: int) -> int:
    """Return how many hours the charts show: the known ones, one at least and a day at most."""
    return max(1, min(_HOURS, math.ceil((now_s - min(times_s, default=now_s)) / HOUR_S)))


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
