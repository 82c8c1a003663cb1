"""Lead: each step of each of its records; its results."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.board.formats import tone
from stream_app.board.read_model.query import FoundResultAt
from stream_app.board.read_model.record_query import RecordRow
from stream_app.board.site import Moment, Site
from stream_app.client.answers import Event, FoundLead, FoundResult, RecordHistory
from stream_app.domain.books.columns import meaning_of

_MOST_OTHERS: Final = 20


class StepRow(msgspec.Struct, frozen=True):
    """One event. `gap_ms`: since the one before; None for the first."""

    event: Event
    gap_ms: int | None
    tone: str


class Timeline(msgspec.Struct, frozen=True):
    """One record of the lead. `meaning`: of its column in the books; `credits`: what was booked in all."""

    history: RecordHistory
    steps: list[StepRow]
    meaning: str
    credits: int
    length_ms: int


class SamePerson(msgspec.Struct, frozen=True):
    """The other leads of the lead's person, each with its newest record.

    Attributes:
        person: The hash that leads to them.
        leads: How many leads it leads to, with this one.
        others: The newest ones.
    """

    person: str
    leads: int
    others: list[RecordRow]


class LeadPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        lead: The lead; None if the model does not know it.
        histories: Newest first.
        same_person: The other leads of its person; None if there are none, and if the person was erased.
        results: Its results; without their data unless `shown`.
        shown: True if the personal data is on the page.
        trace_url: Where traces are, with `{trace_id}`; '' if it is not configured.
    """

    lead_id: str
    lead: FoundLead | None
    histories: list[Timeline]
    same_person: SamePerson | None
    results: list[FoundResult]
    shown: bool
    trace_url: str


def lead_page(site: Site, moment: Moment, lead_id: str) -> LeadPage:
    """Return the page without personal data."""
    return lead_and_places(site, moment, lead_id)[0]


def lead_and_places(site: Site, moment: Moment, lead_id: str) -> tuple[LeadPage, list[FoundResultAt]]:
    """Return the page without personal data, and where the results are on Kafka."""
    lead = site.queries.lead(lead_id)
    places = site.queries.results(lead_id) if lead is not None else []
    url = site.settings.board.trace_url or ""
    histories = [_timeline(each) for each in lead.histories] if lead else []
    same_person = _same_person(site, lead_id) if lead else None
    results = [place.result for place in places]
    return LeadPage(lead_id, lead, histories, same_person, results, shown=False, trace_url=url), places


def _same_person(site: Site, lead_id: str) -> SamePerson | None:
    """Return what the person's identifier that leads to the most leads leads to."""
    found = {person: site.queries.records_of_person(person) for person in site.queries.people_of(lead_id)}
    person = max(found, key=lambda each: len(found[each]), default="")
    others = [row for row in found.get(person, ()) if row.lead_id != lead_id]
    return SamePerson(person, len(found[person]), others[:_MOST_OTHERS]) if others else None


def _timeline(history: RecordHistory) -> Timeline:
    steps: list[StepRow] = []
    before_ms: int | None = None
    for event in history.events:
        gap_ms = None if before_ms is None else event.at_ms - before_ms
        steps.append(StepRow(event, gap_ms, tone(event.status)))
        before_ms = event.at_ms
    length_ms = history.events[-1].at_ms - history.events[0].at_ms if history.events else 0
    booked = sum(event.credits or 0 for event in history.events)
    return Timeline(history, steps, meaning_of(history.column), booked, length_ms)
