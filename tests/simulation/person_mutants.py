"""The person behind a lead, mistaken on purpose: each mutant takes away one thing that it rests on
(see mutants.py).
"""

from collections.abc import Iterable
from unittest.mock import patch

from stream_app.domain.delivery import recorder
from stream_app.domain.delivery import resolve as case
from stream_app.domain.delivery.resolve import ResolvedLead
from stream_app.domain.lead.identity import identifiers
from stream_app.partition.key_locks import KeyLock, KeyLocks
from stream_app.partition.lead import LeadPipeline
from tests.simulation.bases import rare
from tests.simulation.mutant import Patch, mutant
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Schedule, Setup


def suppressed_by_another_name() -> Iterable[Schedule]:
    """The e-mail is suppressed; the lead to be sent has the LinkedIn URL that once came with it."""
    first = Arrival(0.0, "acme", "a", "p1", known_by="el")
    then = Arrival(5.0, "acme", "b", "p1", known_by="l")
    orders = (Order(2.0, "", "suppress", "p1"),)
    return [
        Schedule(
            "by another name",
            setup=Setup(callbacks=False),
            arrivals=(first, then),
            fates=("poison",),
            orders=orders,
        ),
    ]


@mutant("3", hunt=rare)
def only_the_first_identifier_counts() -> Patch:
    return patch.object(case, "identifiers", lambda hashes: identifiers(hashes)[:1])


@mutant("3", hunt=rare)
def a_sent_lead_links_nothing() -> Patch:
    return patch.object(recorder, "linked", lambda own, row, alias: [])


@mutant("3", hunt=rare)
def only_own_identifiers_are_locked() -> Patch:
    return patch.object(LeadPipeline, "_keys_of", lambda self, case: (case.key, *case.aliases))


@mutant("3", hunt=rare)
def locks_are_not_asked_for_again_after_a_wait() -> Patch:
    async def enter(self: KeyLock) -> None:
        if not self._key_locks.acquire(self):
            self.in_flight.release_next()
            await self.granted

    return patch.object(KeyLock, "__aenter__", enter)


@mutant("order", hunt=rare)
def a_later_record_overtakes() -> Patch:
    return patch.object(
        KeyLocks,
        "_is_free",
        lambda self, turn: self._holders.keys().isdisjoint(turn.keys),
    )


@mutant("8", hunt=suppressed_by_another_name)
def suppressed_by_own_identifiers_only() -> Patch:
    return patch.object(ResolvedLead, "with_person", lambda self, person: self)
