"""Now: which lanes are held and why, the four numbers that matter, and the last day."""

from __future__ import annotations

from collections import defaultdict
from typing import Final, Literal

import msgspec

from stream_app.board.charts import Stack, stack
from stream_app.board.paths import lanes_path
from stream_app.board.read_model.board_query import Slot
from stream_app.board.read_model.history import MINUTE_S, QUARTER_S
from stream_app.board.site import HELD, Bar, Lane, Moment, Overview, Site, Tone, lane_rows, overview
from stream_app.client.answers import Cause
from stream_app.domain.lane.explain import Finding

Span = Literal["hour", "day"]

MOST_LANES: Final = 20
_OUTCOMES: Final = {
    "enriched": ("enriched", "partial"),
    "cache": ("served_from_cache", "served_locally"),
    "nodata": ("no_data",),
    "failed": ("enrich_error", "dead_lettered", "parked"),
    "refused": ("rejected_invalid", "suppressed", "expired", "duplicate", "replaced"),
}
SERIES: Final = (
    ("enriched", "enriched"),
    ("cache", "answered from cache"),
    ("nodata", "no data found"),
    ("failed", "failed or parked"),
    ("refused", "not to be sent"),
)
_SERIES_OF: Final = {status: key for key, statuses in _OUTCOMES.items() for status in statuses}


class NowPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        heading: The answer to "does it work?": texts, and counts with what they link to.
        tone: Of the heading.
        is_new: No lead has come yet.
        everywhere: What concerns all lanes.
        held: The held lanes, at most as many as `MOST_LANES`.
        ended_day: Leads that ended in the last day, by series.
        credits: The day's credits of the lanes with a limit; of all lanes if none has one.
        credits_without_limit: Those of the other lanes.
        waiting: Records on Kafka that no worker has taken; None if unknown.
        dead_letters: Dead letters; `top_cause`: the most frequent cause of them.
    """

    heading: list[str | tuple[int, str]]
    tone: Tone
    is_new: bool
    everywhere: list[Finding]
    held: list[Lane]
    held_count: int
    lanes: list[Lane]
    lane_count: int
    chart: Stack
    span: Span
    ended_day: int
    credits: Bar
    credits_without_limit: int
    saved: int
    waiting: int | None
    held_leads: int
    under_way: int
    parked: int
    dead_letters: int
    top_cause: Cause | None


def now_page(site: Site, moment: Moment, span: Span | None) -> NowPage:
    """Return the page. `span`: what the chart covers; None: the day, or the hour if nothing is older."""
    seen = overview(site, moment)
    queries, names = site.queries, site.settings.names
    chart, span, ended = throughput(site, "", moment.now_ms, span)
    dead = queries.dead_letters(names.dlq)
    held = seen.held
    moving = sorted(
        (lane for lane in seen.lanes if lane.tone not in HELD), key=lambda lane: (-lane.waiting, lane.workspace)
    )
    heading, tone = _heading(seen)
    credits_, without_limit = _credits(seen, moment.now_ms)
    return NowPage(
        heading=heading,
        tone=tone,
        is_new=bool(seen.lanes) and not held and all(lane.view is None for lane in seen.lanes),
        everywhere=seen.everywhere,
        held=held[:MOST_LANES],
        held_count=len(held),
        lanes=lane_rows(site, moment, [*held, *moving][:MOST_LANES]),
        lane_count=len(seen.lanes),
        chart=chart,
        span=span,
        ended_day=ended,
        credits=credits_,
        credits_without_limit=without_limit,
        saved=sum(day.saved for day in queries.money()),
        waiting=None if moment.kafka is None else sum(moment.kafka.waiting.values()),
        held_leads=seen.in_columns("held"),
        under_way=seen.in_columns("under_way"),
        parked=seen.in_columns("parked"),
        dead_letters=dead.dead_letters,
        top_cause=dead.causes[0] if dead.causes else None,
    )


def throughput(site: Site, workspace: str, now_ms: int, span: Span | None) -> tuple[Stack, Span, int]:
    """Return the chart of leads that ended, the time that it covers, and how many ended in the last day."""
    now_s = now_ms // 1000
    day_s = now_s // QUARTER_S * QUARTER_S - 95 * QUARTER_S
    quarters = site.queries.history([workspace], QUARTER_S, day_s)[workspace]
    ended = sum(slot.events for slot in quarters if slot.status in _SERIES_OF)
    if span is None:
        oldest_s = min((slot.at_s for slot in quarters), default=0)
        span = "hour" if oldest_s > now_s - 3_600 else "day"
    if span == "day":
        return stack(SERIES, _by_slot(quarters), day_s, QUARTER_S, 96, 9), span, ended
    begin_s = now_s // MINUTE_S * MINUTE_S - 59 * MINUTE_S
    minutes = site.queries.history([workspace], MINUTE_S, begin_s)[workspace]
    return stack(SERIES, _by_slot(minutes), begin_s, MINUTE_S, 60, 7), span, ended


def _by_slot(slots: list[Slot]) -> dict[int, dict[str, int]]:
    found: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for slot in slots:
        if (key := _SERIES_OF.get(slot.status)) is not None:
            found[slot.at_s][key] = found[slot.at_s].get(key, 0) + slot.events
    return found


def _heading(seen: Overview) -> tuple[list[str | tuple[int, str]], Tone]:
    lanes, held = len(seen.lanes), len(seen.held)
    all_lanes = (lanes, lanes_path())
    if any(finding.code == "no_worker" for finding in seen.everywhere):
        return ["Nothing is sent: no worker runs"], "bad"
    if not lanes:
        return ["No workspace is configured"], "idle"
    if held:
        words = " lane is held" if lanes == 1 else " lanes are held"
        return [(held, lanes_path(state="held")), " of ", all_lanes, words], "bad"
    if all(lane.view is None for lane in seen.lanes):
        return ["Ready: no lead has come yet"], "idle"
    return (["The lane moves"] if lanes == 1 else ["All ", all_lanes, " lanes move"]), "ok"


def _credits(seen: Overview, now_ms: int) -> tuple[Bar, int]:
    """Return the day's credits of the lanes with a limit, and those of the others. Without a limit the bar is empty."""
    views = [lane.view for lane in seen.lanes if lane.view is not None]
    meters = [meter.at(now_ms) for view in views if (meter := view.meters.get("credits_day")) is not None]
    capped = [meter for meter in meters if meter.cap is not None]
    cap, reserved = sum(meter.cap or 0 for meter in capped), sum(meter.reserved for meter in capped)
    booked = sum(meter.booked for meter in capped)
    spent_share = min(100.0, booked / cap * 100) if cap else 0.0
    reserved_share = min(100.0 - spent_share, reserved / cap * 100) if cap else 0.0
    tone: Tone = "warn" if spent_share + reserved_share >= 80 else "ok"
    without_limit = sum(meter.booked for meter in meters if meter.cap is None)
    total = Bar(
        name="credits_day",
        label="credits today",
        used=booked if capped else without_limit,
        reserved=reserved,
        cap=cap or None,
        spent_share=round(spent_share, 2),
        reserved_share=round(reserved_share, 2),
        tone=tone,
    )
    return total, without_limit if capped else 0
