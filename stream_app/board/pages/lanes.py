"""The pages of all lanes: their state now, and their list."""

import math
from collections import defaultdict
from collections.abc import Collection
from typing import Final

from stream_app.board.charts import Stack, stack
from stream_app.board.formats import lanes_path, noun
from stream_app.board.read_model.board_query import Slot
from stream_app.board.read_model.history import MINUTE_S, QUARTER_S
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
    lane_rows,
    overview,
    untaken,
)
from stream_app.domain.callback.interpret import OVERDUE
from stream_app.domain.views.explain import HELD_IN_PART, named_first
from stream_app.kafka.backlog import sum_of

MAX_SHOWN_LANES: Final = 20
_HOURS: Final = 24
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
        "waiting": None if (waiting := untaken(moment)) is None else sum_of(waiting),
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
        known = hours_known([slot.at_s for slot in quarters], now_s) * 4 if quarters else 96
        begin_s = day_s + (96 - known) * QUARTER_S
        return (
            stack(SERIES, _by_slot(quarters), begin_s, QUARTER_S, known, 9 if known == 96 else 5),
            span,
            ended,
        )
    begin_s = now_s // MINUTE_S * MINUTE_S - 59 * MINUTE_S
    minutes = site.queries.came_to_rest([workspace], MINUTE_S, begin_s)[workspace]
    return stack(SERIES, _by_slot(minutes), begin_s, MINUTE_S, 60, 7), span, ended


def hours_known(times_s: Collection[int], now_s: int) -> int:
    """Return how many hours the charts show: the known ones, one at least and a day at most."""
    return max(1, min(_HOURS, math.ceil((now_s - min(times_s, default=now_s)) / HOUR_S)))


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
