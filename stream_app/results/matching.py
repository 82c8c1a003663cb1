"""Finds the result of a row of the published file, by the same rules as the worker recognises a lead."""

from __future__ import annotations

from stream_app.config import Settings
from stream_app.domain.lead.identity import identify
from stream_app.domain.lead.lead import Unreadable
from stream_app.domain.lead.person import identifiers, person_key
from stream_app.publishing import PublishOptions
from stream_app.publishing.check import Checker
from stream_app.publishing.rows import Row
from stream_app.results.store import ResultStore


class Matcher:
    """Matches rows to results. `options` has the defaults that were given to `publish`."""

    def __init__(self, settings: Settings, options: PublishOptions, store: ResultStore) -> None:
        self._settings = settings
        self._checker = Checker(settings, options)
        self._store = store

    def match(self, row: Row) -> int:
        """Return the number of the row's result in the store, or 0.

        The search order is: the row's lead id; a lead that counts for the row's person (another row of the same person
        may have been sent); the id that is derived from the person.
        """
        read = row.draft if isinstance(row.draft, Unreadable) else self._checker.read(row.draft)
        if isinstance(read, Unreadable):
            return 0
        lead, store = read[0], self._store
        who, workspace = identify(lead), lead.workspace or ""
        destination = self._settings.destination_of(workspace, lead.destination)
        if who is None or destination is None:
            return 0
        place = f"{workspace}/{destination}"
        found = 0
        for each in (who.lead_id, *who.former_ids):
            found = found or store.of_lead(f"{place}/{each}".encode())
        known_by = [each for under in (who.people, *who.former) for each in identifiers(under)]
        for each in known_by:
            found = found or store.of_person(person_key(workspace, destination, each))
        for each in known_by:
            found = found or store.of_lead(f"{place}/p-{each}".encode())
        return found
