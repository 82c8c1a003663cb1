"""Leads that must not be sent: those of suppressed people, and those cancelled or erased.

The suppression list holds hashes of people. Every partition has the whole list, because any
partition may receive any person. A cancellation or an erasure applies to records that were
published before it, and the same lead may be published again afterwards.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.resolve import LeadRef, ResolvedLead
from stream_app.domain.delivery.state_machine import Reason
from stream_app.domain.lead.identity import Alias, hash_of, people, person_key, person_of, row_id
from stream_app.domain.model.numbers import TimeMs
from stream_app.domain.model.records import read_number
from stream_app.domain.model.untrusted import decode

TEXT: Final = {
    "suppressed": "this person is on the suppression list",
    "cancelled": "an operator cancelled this lead before it was sent",
    "erased": "this lead was erased",
}


class Suppression(msgspec.Struct, frozen=True):
    """The value of a row that says why a lead must not be sent.

    Attributes:
        reason: Why it must not be sent.
        at_ms: Since when a person is suppressed, epoch ms. For a cancelled or erased lead: until
            when a record must have been published to be affected.
        command: The id of the command, whose answer on `leads.audit` has the details.
        who: The operator.
    """

    reason: Literal["suppressed", "cancelled", "erased"]
    at_ms: TimeMs
    command: str
    who: str


class _Named(msgspec.Struct):
    """What is read of a record to find its person."""

    fields: dict[str, Any] = {}


read_suppression: Final = msgspec.json.Decoder(Suppression).decode
_named: Final = msgspec.json.Decoder(_Named)


def person_row(person: str) -> bytes:
    """Return the row key of a suppressed person (a hash of `domain.lead.identity.people`)."""
    return f"s/{person}".encode()


def suppressed_person(row_key: bytes) -> str | None:
    """Return the person of a key of `person_row`; None for the key of another kind of row."""
    return row_key[2:].decode() if row_key.startswith(b"s/") else None


def lead_row(workspace: str, lead_id: str) -> bytes:
    """Return the row key of a cancelled lead. It covers all destinations."""
    return f"x/lead/{workspace}/{row_id(lead_id)}".encode()


def import_row(workspace: str, import_id: str) -> bytes:
    """Return the row key of a cancelled import.

    The key has a hash of the import's id, because the id may be any text.
    """
    digest = blake2b(import_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"x/import/{workspace}/{digest}".encode()


def erased_row(workspace: str, lead_id: str) -> bytes:
    """Return the row key of an erased lead. It covers all destinations and is never deleted."""
    return f"e/{workspace}/{row_id(lead_id)}".encode()


def is_erased(suppression: Suppression | None, first_at_ms: int) -> bool:
    """Return True if a history that began at this time belongs to an erased lead.

    The data of such a history must not be written again.
    """
    return suppression is not None and first_at_ms <= suppression.at_ms


def is_unwanted(
    who: LeadRef,
    first_at_ms: int,
    find: Callable[[bytes], Suppression | None],
    alias: Alias,
) -> bool:
    """Return True if nothing of this record may be written again.

    Then its lead was erased, or its person is suppressed.
    """
    destination = who.destination
    if is_erased(find(erased_row(destination.workspace, who.lead_id)), first_at_ms):
        return True
    people = people_in(who.consumed.value)
    own = tuple(person_key(destination.workspace, destination.alias, person) for person in people)
    return any(find(person_row(hash_of(key))) is not None for key in person_of(own, alias).aliases)


def people_in(value: bytes | None) -> tuple[str, ...]:
    """Return all hashes of the person in a record, even if the record is not a lead.

    A record that names no person has none.
    """
    try:
        return people(decode(_named, value).fields)
    except ValueError:
        return ()


def suppression_reason(
    case: ResolvedLead,
    find: Callable[[bytes], Suppression | None],
) -> Reason | None:
    """Return why a lead must not be sent; None if it may be. `find` returns the row of a key."""
    workspace = case.destination.workspace
    rows = [person_row(person) for person in (*case.people, *case.also) if person]
    rows += [lead_row(workspace, case.lead_id), erased_row(workspace, case.lead_id)]
    if case.lead.import_id:
        rows.append(import_row(workspace, case.lead.import_id))
    for suppression in filter(None, map(find, rows)):
        # A cancellation does not apply to what was published or redriven after it.
        redriven = case.envelope.way == "redriven" and suppression.reason == "cancelled"
        published_ms = case.consumed.timestamp_ms if redriven else case.envelope.origin_ms
        # The copy of a dead letter begins a new history, but its data may be older than an erasure.
        if suppression.reason == "erased" and case.envelope.dead_letter:
            published_ms = (
                read_number(case.consumed.header(HEADERS["origin_ms"]) or "") or published_ms
            )
        if suppression.reason == "suppressed" or published_ms <= suppression.at_ms:
            return Reason(
                suppression.reason,
                f"{TEXT[suppression.reason]} (command {suppression.command})",
            )
    return None
