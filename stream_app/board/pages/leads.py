"""Leads: the latest ones by workspace and status, and the search by id, e-mail or LinkedIn URL."""

from __future__ import annotations

from collections import Counter
from typing import Final
from urllib.parse import quote

import msgspec

from stream_app.board.site import Moment, Site
from stream_app.domain.books.columns import COLUMNS, MEANING
from stream_app.gateway.client import names_of
from stream_app.gateway.read_model.board_query import Place, RecordRow

ROWS: Final = 50
_UNKNOWN: Final = -1
"""The number of an import that is not known: it has no record."""
_FILTERED: Final = tuple(name for name in COLUMNS if name != "waiting")


class Filter(msgspec.Struct, frozen=True):
    """What the URL selects. `status` or `column` may be set, not both; `person` is the hash of a person.

    `import_id` selects an import of the workspace.
    """

    workspace: str = ""
    status: str = ""
    column: str = ""
    person: str = ""
    import_id: str = ""


class LeadsPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        rows: The records.
        filter: As the URL has it.
        columns: The columns of the books with their meaning and how many records they count.
        statuses: The statuses of records, with their number.
        matches: How many records match; None if the model does not count them.
        after: Where the next page begins.
    """

    rows: list[RecordRow]
    filter: Filter
    columns: list[tuple[str, str, int]]
    statuses: list[tuple[str, int]]
    matches: int | None
    after: Place | None


def leads_page(site: Site, moment: Moment, chosen: Filter, after: Place | None) -> LeadsPage:
    """Return the page.

    Args:
        site: What all pages share.
        moment: What the request sees.
        chosen: What the URL selects.
        after: The last record of the page before.
    """
    if chosen.person:
        return LeadsPage(_of_person(site, chosen.person), chosen, [], [], None, None)
    imported = 0
    if chosen.import_id:
        imported, counts = site.queries.import_counts(chosen.workspace, chosen.import_id)
        imported = imported or _UNKNOWN
    else:
        counts = site.queries.status_sums(chosen.workspace)
    columns: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    for each in counts:
        columns[each.column] += each.records
        statuses[each.status] += each.records
    wanted: tuple[str, ...] = (chosen.status,) if chosen.status else ()
    matches, final = statuses[chosen.status] if chosen.status else statuses.total(), None
    if chosen.column:
        found = [each for each in counts if each.column == chosen.column]
        wanted = tuple({each.status for each in found})
        matches, final = columns[chosen.column], chosen.column == "accepted_final"
    rows: list[RecordRow] = []
    if matches:
        rows = site.queries.records(chosen.workspace, wanted, after, ROWS + 1, final=final, imported=imported)
    more = rows[ROWS - 1].place if len(rows) > ROWS else None
    known: list[tuple[str, str, int]] = [(name, MEANING[name], columns[name]) for name in _FILTERED]
    return LeadsPage(rows[:ROWS], chosen, known, statuses.most_common(), matches, more)


def _of_person(site: Site, person: str) -> list[RecordRow]:
    """Return the newest record of each lead of a person."""
    found: list[RecordRow] = []
    for lead_id in site.queries.leads_of(person):
        lead = site.queries.lead(lead_id)
        for history in lead.histories[:1] if lead else []:
            place = Place(history.at_ms, 0)
            where = (history.workspace, history.destination)
            found.append(RecordRow(place, lead_id, *where, history.status, history.at_ms, history.origin))
    return found


def find(site: Site, text: str) -> str:
    """Return the path of the page that answers a search. It contains no personal data.

    Args:
        site: What all pages share.
        text: A lead id, an e-mail or a LinkedIn URL.
    """
    persons, lead_ids = names_of(text)
    for person in persons:
        known = [lead_id for lead_id in site.queries.leads_of(person) if site.queries.lead(lead_id) is not None]
        if len(known) == 1:
            return lead_path(known[0])
        if known:
            return f"/board/leads?person={person}"
    for lead_id in lead_ids:
        if site.queries.lead(lead_id) is not None:
            return lead_path(lead_id)
    if persons:
        return f"/board/leads?person={persons[0]}"
    return lead_path(lead_ids[0]) if lead_ids else "/board/leads"


def lead_path(lead_id: str) -> str:
    """Return the path of a lead's page."""
    return f"/board/leads/{quote(lead_id, safe='/:')}"
