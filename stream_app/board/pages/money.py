"""The page of what the leads cost: by day, by workspace and destination, and the same as CSV."""

import csv
from io import StringIO
from typing import Final

from stream_app.board.charts import stack
from stream_app.board.formats import day_of
from stream_app.board.read_model.history import DAY_S, QUARTER_S
from stream_app.board.requests import Query, word
from stream_app.board.site import HOUR_S, Moment, PageData, Site
from stream_app.client.results.answers import Day
from stream_app.domain.model.text import for_spreadsheet

DAYS: Final = 35
MAX_ROWS: Final = 100
"""Rows of the page by workspace and destination. The CSV has all."""
CSV_COLUMNS: Final = (
    "credits",
    "reported",
    "estimated",
    "saved",
    "enriched",
    "per_lead",
    "refused",
    "resent",
)


def money_page(site: Site, moment: Moment, query: Query) -> PageData | None:
    """Return the page; None if the workspace is unknown.

    `workspace`: only of this one; '' for the sum of all. `day`: of which the lanes are listed; ''
        for all days.
    """
    workspace = word(query, "workspace")
    day = word(query, "day")
    queries = site.queries
    now_s = moment.now_ms // 1000
    rows = [row for row in queries.days(workspace) if row.at_s > now_s - DAYS * DAY_S]
    if workspace and not rows and workspace not in site.settings.workspaces:
        return None
    days = [
        _sum([row for row in rows if row.at_s == at_s], at_s)
        for at_s in dict.fromkeys(e.at_s for e in rows)
    ]
    chosen = next((entry.at_s for entry in days if day_of(entry.at_s) == day), None)
    if chosen is None:
        since_s = now_s - DAYS * DAY_S + 1
        until_s = 1 << 62
    else:
        since_s = chosen
        until_s = chosen + DAY_S
    hour_s = now_s - now_s % HOUR_S
    today_s = now_s - now_s % DAY_S
    hours = queries.credits([workspace], QUARTER_S, hour_s - DAY_S)[workspace]
    first_s = days[-1].at_s if days else today_s
    spent = {entry.at_s: {"enriched": entry.credits} for entry in days}
    slots = (today_s - first_s) // DAY_S + 1
    chart = (
        stack([("enriched", "credits")], spent, first_s, DAY_S, slots, min(8, slots + 1))
        if slots > 1
        else None
    )
    return {
        "workspace": workspace,
        "day": day if chosen is not None else "",
        "days": days,
        "all": _sum(days, first_s),
        "today": next((entry for entry in days if entry.at_s == today_s), _sum([], today_s)),
        "yields": queries.yields(moment.now_ms, workspace or None)[:MAX_ROWS],
        "lanes": queries.lanes_money(workspace or None, since_s, until_s)[:MAX_ROWS],
        "chart": chart,
        "hour_ms": hour_s * 1000,
        "this_hour": sum(slot.credits for slot in hours if slot.at_s >= hour_s),
        "yesterday": sum(slot.credits for slot in hours if slot.at_s < hour_s - DAY_S + HOUR_S),
    }


def _sum(days: list[Day], at_s: int) -> Day:
    numbers = (sum(getattr(day, name) for day in days) for name in Day.__struct_fields__[3:])
    return Day("", "", at_s, *numbers)


def money_csv(site: Site, workspace: str) -> str:
    """Return a CSV with a row for each day, workspace and destination, the newest first.

    `workspace` is '' for all of them.
    """
    text = StringIO()
    out = csv.writer(text)
    out.writerow(("day", "workspace", "destination", *CSV_COLUMNS))
    for row in site.queries.days(workspace or None):
        if row.workspace:
            names = (for_spreadsheet(name) for name in (row.workspace, row.destination))
            values = (getattr(row, name) for name in CSV_COLUMNS)
            out.writerow(
                (
                    day_of(row.at_s),
                    *names,
                    *("" if value is None else round(value, 2) for value in values),
                ),
            )
    return text.getvalue()
