"""Lanes: all of them in pages, by name, with a filter by state."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.board.site import UNREADABLE, Lane, Moment, Site, lane_rows, overview

ROWS: Final = 50
STATES: Final = ("held", "moves", "idle", "unreadable")
"""The filters."""


class LanesPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        counts: Lanes whose names begin with `begins`, by state.
        after: The last name of this page if there are more.
    """

    lanes: list[Lane]
    counts: dict[str, int]
    state: str
    begins: str
    matches: int
    after: str


def lanes_page(site: Site, moment: Moment, state: str, begins: str, after: str) -> LanesPage:
    """Return the page: lanes in a state (one of `STATES`, or '' for all) whose names begin with `begins`."""
    seen = overview(site, moment)
    named = [lane for lane in seen.lanes if lane.workspace.lower().startswith(begins.lower())]
    counts = dict.fromkeys(STATES, 0)
    for lane in named:
        counts[_filter_of(lane)] += 1
    matching = [lane for lane in named if state in ("", _filter_of(lane))]
    rest = [lane for lane in matching if lane.workspace > after]
    page = lane_rows(site, moment, rest[:ROWS])
    more = page[-1].workspace if len(rest) > ROWS else ""
    return LanesPage(page, counts, state, begins, len(matching), more)


def _filter_of(lane: Lane) -> str:
    if lane.state == UNREADABLE:
        return "unreadable"
    return {"ok": "moves", "idle": "idle"}.get(lane.tone, "held")
