"""The pages of leads: the latest, the search by id, e-mail or LinkedIn URL, the steps of one."""

from collections import Counter
from typing import Final

import msgspec

from stream_app.board.charts import Band
from stream_app.board.formats import day_of, duration, lead_path, leads_path
from stream_app.board.read_model.board_query import RecordRow
from stream_app.board.read_model.query import ListPlace
from stream_app.board.requests import Query, after_of, lead_id_of, words
from stream_app.board.site import ROWS, Moment, PageData, Site
from stream_app.client.results.answers import FoundResult, RecordHistory, StatusCount, steps
from stream_app.client.results.lookup import names_of
from stream_app.domain.books.records import COLUMNS, meaning_of
from stream_app.domain.lane.holds import WaitKind
from stream_app.domain.views.waits import WAIT_NAMES, RecordWait, sums

_FILTERED: Final = (*(name for name in COLUMNS if name != "waiting"), "unknown")


class LeadFilter(msgspec.Struct, frozen=True):
    """What the query selects.

    `status` or `column` may be set, not both; `person` is the hash of a person.

    `status` may be several, with commas between them. `import_id` selects an import of the
    workspace. `unnamed` selects those that name no workspace, if it is not ''. `lead_id` selects
    the records of a lead. `resent` selects what was sent again although it may have reached Clay:
    on a day such as 2026-09-21, or `all`.
    """

    workspace: str = ""
    status: str = ""
    column: str = ""
    person: str = ""
    import_id: str = ""
    unnamed: str = ""
    lead_id: str = ""
    resent: str = ""

    @property
    def of(self) -> str | None:
        """The workspace for queries: '' for those that name none, None for all."""
        return "" if self.unnamed else self.workspace or None


def leads_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page that the query selects."""
    chosen = LeadFilter(**words(query, LeadFilter.__struct_fields__))
    after = after_of(query)
    if chosen.person:
        rows = site.queries.now_of(site.queries.leads_of(chosen.person))
        return {"rows": rows, "filter": chosen, "matches": len(rows), "after": None}
    if chosen.lead_id or chosen.resent:
        matches, rows = _records_of(site, chosen, after)
        return {"rows": rows[:ROWS], "filter": chosen, "matches": matches, "after": _after(rows)}
    imported = 0
    if chosen.import_id:
        imported, counts = site.queries.import_counts(chosen.workspace, chosen.import_id)
    else:
        counts = site.queries.status_sums(chosen.of)
    columns: Counter[str] = Counter()
    for count in counts:
        columns[count.column] += count.leads
    # Without a filter the list has what the books count: callbacks and commands are no leads.
    wanted = [count for count in counts if _matches(count, chosen)]
    matches = sum(count.leads for count in wanted)
    final = chosen.column == "accepted_final" if chosen.column else None
    rows = []
    if matches:
        statuses = {count.status for count in wanted}
        rows = site.queries.records(
            chosen.of,
            statuses,
            after,
            ROWS + 1,
            final=final,
            imported=imported,
        )
    return {
        "rows": rows[:ROWS],
        "filter": chosen,
        "columns": [(name, meaning_of(name), columns[name]) for name in _FILTERED],
        "matches": matches,
        "all": columns.total() - columns[""],  # records that are in a column
        "is_new": chosen == LeadFilter() and not matches,
        "after": _after(rows),
    }


def _matches(counted: StatusCount, chosen: LeadFilter) -> bool:
    if chosen.status:
        return counted.status in chosen.status.split(",")
    return counted.column == chosen.column if chosen.column else counted.column != ""


def _after(rows: list[RecordRow]) -> ListPlace | None:
    return rows[ROWS - 1].place if len(rows) > ROWS else None


def _records_of(
    site: Site,
    chosen: LeadFilter,
    after: ListPlace | None,
) -> tuple[int, list[RecordRow]]:
    """Return the records of a lead, or those that were sent again.

    Returns:
        How many there are, and those after a place.
    """
    if chosen.lead_id:
        return site.queries.records_of_lead(chosen.lead_id, after, ROWS + 1)
    days = {day_of(of_day.at_s): of_day for of_day in site.queries.days("")}
    if chosen.resent == "all":
        return sum(of_day.resent for of_day in days.values()), site.queries.resent(
            None,
            after,
            ROWS + 1,
        )
    day = days.get(chosen.resent)
    return (0, []) if day is None else (day.resent, site.queries.resent(day.at_s, after, ROWS + 1))


def find(site: Site, text: str, now_ms: int) -> str:
    """Return the path of the page that answers a search by lead id, e-mail or LinkedIn URL.

    It contains no personal data.
    """
    person, lead_ids = names_of(text)
    if person is not None:
        known = [
            lead_id
            for lead_id in site.queries.leads_of(person)
            if site.queries.lead(lead_id, now_ms) is not None
        ]
        if len(known) == 1:
            return lead_path(known[0])
        if known:
            return leads_path(person=person)
    for lead_id in lead_ids:
        if site.queries.lead(lead_id, now_ms) is not None:
            return lead_path(lead_id)
    if person is not None:
        return leads_path(person=person)
    return lead_path(lead_ids[0]) if lead_ids else leads_path()


_MAX_OTHERS: Final = 20
_MIN_WIDTH_PERCENT: Final = 0.4  # percent of the width that can be seen
_TONES: Final[dict[WaitKind, str]] = {
    **dict.fromkeys(("budget", "pause", "replay", "person"), "warn"),
    **dict.fromkeys(("outage", "retry"), "bad"),
    "rest": "track",
}


def lead_page(
    site: Site,
    moment: Moment,
    query: Query,
    shown: list[FoundResult] | None = None,
) -> PageData:
    """Return the page.

    `shown`: the results with their personal data; None: it is not on the page.
    """
    lead_id = lead_id_of(query)
    lead = site.queries.lead(lead_id, moment.now_ms)
    return {
        "lead_id": lead_id,
        "lead": lead,
        # A duplicate or a late callback may be newer than it, but counts for no lead.
        "now": site.queries.now_of([lead_id]),
        "histories": [_timeline(history, moment.now_ms) for history in lead.histories]
        if lead
        else [],
        # The other leads of its person; None if there are none, or if the person was erased.
        "same_person": _same_person(site, lead_id) if lead else None,
        "results": [place.result for place in site.queries.results(lead_id)]
        if shown is None
        else shown,
        "shown": shown is not None,
        "trace_url": site.settings.board.trace_url or "",
    }


def _same_person(site: Site, lead_id: str) -> PageData | None:
    """Return the leads of that identifier of the person which has the most of them."""
    records = {
        person: site.queries.now_of(site.queries.leads_of(person))
        for person in site.queries.people_of(lead_id)
    }
    person = max(records, key=lambda name: len(records[name]), default="")
    others = [row for row in records.get(person, ()) if row.lead_id != lead_id]
    return (
        {"person": person, "leads": len(records[person]), "others": others[:_MAX_OTHERS]}
        if others
        else None
    )


def _timeline(history: RecordHistory, now_ms: int) -> PageData:
    """Return one record of the lead: its steps, and where its time went, by kind."""
    booked = sum(event.credits or 0 for event in history.events)
    waits = history.waits
    length_ms = sum(wait.length_ms(now_ms) for wait in waits)
    rows = []
    for kind, took_ms, times in sums(waits, now_ms):
        mine = [wait for wait in waits if wait.kind == kind]
        bands = _bands(
            mine,
            _TONES.get(kind, "moving"),
            waits[0].begin_ms,
            max(1, length_ms),
            now_ms,
        )
        # The last wait has no end while it lasts.
        span = {"begin_ms": mine[0].begin_ms, "end_ms": mine[-1].end_ms, "length_ms": took_ms}
        rows.append({"name": WAIT_NAMES[kind], "bands": bands, "times": times, **span})
    return {
        "history": history,
        "steps": steps(history.events),
        "meaning": meaning_of(history.column),
        "credits": booked,
        "length_ms": length_ms,  # until now if it waits now
        "waits": rows,
        "now": waits[-1] if waits and waits[-1].end_ms is None else None,
    }


def _bands(
    waits: list[RecordWait],
    tone: str,
    begin_ms: int,
    length_ms: int,
    now_ms: int,
) -> list[Band]:
    """Return the waits of a kind.

    Those without a visible gap are one band, so that their number stays bounded.
    """
    bands: list[Band] = []
    for wait in waits:
        x = (wait.begin_ms - begin_ms) / length_ms * 100
        width = wait.length_ms(now_ms) / length_ms * 100
        text = f"{duration(wait.length_ms(now_ms))}{': ' if wait.text else ''}{wait.text}"
        if bands and x - bands[-1].x - bands[-1].width < _MIN_WIDTH_PERCENT:
            last = bands.pop()
            width = max(last.width, x + width - last.x)
            x = last.x
            text = last.text
        bands.append(Band(round(x, 3), round(max(width, _MIN_WIDTH_PERCENT), 3), tone, text))
    return bands
