"""Leads that must not be sent: people on the suppression list, and leads that an operator cancelled or erased.

The list holds hashes of people. Every partition has the whole list, because any partition may receive any person. A
cancellation or erasure applies to records that were published before it. The same lead may be published again
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from stream_app.domain.dead_letter.causes import Headers, addressed_to, lead_id_of, number
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.recorder import Reason
from stream_app.domain.delivery.resolve import LeadRef, ResolvedLead
from stream_app.domain.lead.identity import Alias, hash_of, people, person_key, person_of, row_id
from stream_app.domain.model.untrusted import decode

TEXT: Final = {
    "suppressed": "this person is on the suppression list",
    "cancelled": "an operator cancelled this lead before it was sent",
    "erased": "this lead was erased",
}


class Suppression(msgspec.Struct, frozen=True):
    """The value of a row.

    Attributes:
        reason: Why the lead must not be sent.
        at_ms: For a person: since when. For a cancelled or erased lead: records published until then are affected.
            Epoch ms.
        command: The id of the command. Its answer on `leads.audit` has the details.
        who: The operator.
    """

    reason: Literal["suppressed", "cancelled", "erased"]
    at_ms: int
    command: str
    who: str


_row: Final = msgspec.json.Decoder(Suppression)


def person_row(person: str) -> bytes:
    """Return the row key of a suppressed person (a hash of `domain.lead.identity.people`)."""
    return f"s/{person}".encode()


def suppressed_person(row_key: bytes) -> str | None:
    """Return the person of such a key; None for the key of another kind of row."""
    return row_key[2:].decode() if row_key.startswith(b"s/") else None


class SuppressionList:
    """The suppression list and all erased leads of all partitions, for programs that only read the state topic."""

    def __init__(self) -> None:
        self._partitions: dict[str, int] = {}  # a bit each
        self._erased: dict[bytes, int] = {}  # row key -> until when it was published, epoch ms

    def __bool__(self) -> bool:
        return bool(self._partitions or self._erased)

    def apply(self, row_key: bytes, value: bytes | None, partition: int) -> None:
        """Apply a record of the state topic, of any kind of row. One without a value deletes the row."""
        if row_key.startswith(b"e/"):
            if value is None:
                self._erased.pop(row_key, None)
            else:
                self._erased[row_key] = _row.decode(value).at_ms
            return
        person = suppressed_person(row_key)
        if person is None:
            return
        bits, bit = self._partitions.get(person, 0), 1 << partition
        bits = bits & ~bit if value is None else bits | bit
        if bits:
            self._partitions[person] = bits
        else:
            self._partitions.pop(person, None)

    def names(self, headers: Headers, key: bytes | None, value: bytes | None, at_ms: int) -> bool:
        """Return True if a dead letter belongs to a suppressed person or an erased lead, even if its value is broken.

        `at_ms` (its append, epoch ms) is used if it does not say when its lead was published.
        """
        if self._partitions and any(person in self._partitions for person in people_in(value)):
            return True
        if not self._erased:
            return False
        workspace, _ = addressed_to(headers, key, value)
        until_ms = self._erased.get(erased_row(workspace, lead_id_of(headers, value)))
        return until_ms is not None and (number(headers, HEADERS["origin_ms"]) or at_ms) <= until_ms


def lead_row(workspace: str, lead_id: str) -> bytes:
    """Return the row key of a cancelled lead. It covers all destinations."""
    return f"x/lead/{workspace}/{row_id(lead_id)}".encode()


def erased_row(workspace: str, lead_id: str) -> bytes:
    """Return the row key of an erased lead. It covers all destinations and is never deleted."""
    return f"e/{workspace}/{row_id(lead_id)}".encode()


def is_erased(found: Suppression | None, first_at_ms: int) -> bool:
    """Return True if a history that began then belongs to an erased lead. Its data must not be written again."""
    return found is not None and first_at_ms <= found.at_ms


def is_unwanted(who: LeadRef, first_at_ms: int, find: Callable[[bytes], Suppression | None], alias: Alias) -> bool:
    """Return True if nothing of this record may be written again: its lead was erased, or its person is suppressed."""
    destination = who.destination
    if is_erased(find(erased_row(destination.workspace, who.lead_id)), first_at_ms):
        return True
    own = tuple(person_key(destination.workspace, destination.alias, each) for each in people_in(who.consumed.value))
    return any(find(person_row(hash_of(key))) is not None for key in person_of(own, alias).aliases)


def people_in(value: bytes | None) -> tuple[str, ...]:
    """Return all hashes of the person in a record, even if it is not a lead; () if it names no person."""
    try:
        return people(decode(_named, value).fields)
    except ValueError:
        return ()


class _Named(msgspec.Struct):
    fields: dict[str, Any] = {}


_named: Final = msgspec.json.Decoder(_Named)


def import_row(workspace: str, import_id: str) -> bytes:
    """Return the row key of a cancelled import. It has a hash of the name, which may be any text."""
    digest = blake2b(import_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"x/import/{workspace}/{digest}".encode()


def suppression_reason(case: ResolvedLead, find: Callable[[bytes], Suppression | None]) -> Reason | None:
    """Return why a lead must not be sent; None if it may be. `find` returns the row of a key."""
    for found in filter(None, map(find, _rows_about(case))):
        if _binds(found, case):
            return Reason(found.reason, f"{TEXT[found.reason]} (command {found.command})")
    return None


def _rows_about(case: ResolvedLead) -> Iterator[bytes]:
    yield from map(person_row, filter(None, (*case.people, *case.also)))
    yield lead_row(case.destination.workspace, case.lead_id)
    yield erased_row(case.destination.workspace, case.lead_id)
    if case.lead.import_id:
        yield import_row(case.destination.workspace, case.lead.import_id)


def _binds(found: Suppression, case: ResolvedLead) -> bool:
    """Return True if the suppression applies: a cancellation ignores what was published or redriven after it."""
    if found.reason == "suppressed":
        return True
    redriven = case.envelope.way == "redriven" and found.reason == "cancelled"
    return (case.consumed.timestamp_ms if redriven else case.envelope.origin_ms) <= found.at_ms
