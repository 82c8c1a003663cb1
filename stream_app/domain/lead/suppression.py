"""Who is not to be sent: people on the suppression list, and what an operator cancelled before it was sent.

The list holds hashes of people, never a person. It is whole in every partition, since anybody may publish any person.
A cancellation or an erasure is about what was published until then: the same lead may be published again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import chain
from typing import Any, Final, Literal

import msgspec

from stream_app.domain.dead_letter.causes import Headers, addressed_to, lead_id_of, number
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.recorder import Reason
from stream_app.domain.lead.lead import former_hashes, people, row_id
from stream_app.domain.lead.person import Alias, hash_of, person_key, person_of
from stream_app.domain.lead.resolve import LeadRef, ResolvedLead

_TEXT: Final = {
    "suppressed": "this person is on the suppression list",
    "cancelled": "an operator cancelled it before it was sent",
    "erased": "it was erased",
}


class Suppression(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row (value). `at_ms`: since when a person is suppressed; until when a cancelled or erased lead was published.

    command, who   the command that asked for it; its answer on `leads.audit` has the rest.
    """

    reason: Literal["suppressed", "cancelled", "erased"]
    at_ms: int
    command: str
    who: str


_row: Final = msgspec.json.Decoder(Suppression)


def person_row(person: str) -> bytes:
    """Row key of a suppressed person (a hash of `core.lead.people`)."""
    return f"s/{person}".encode()


def suppressed_person(row_key: bytes) -> str | None:
    """The person of such a key; None for keys of other rows."""
    return row_key[2:].decode() if row_key.startswith(b"s/") else None


class SuppressionList:
    """Everybody who is on the list in any partition, and every lead that was erased, as the rows say it: for those who
    only read along.
    """

    def __init__(self) -> None:
        self._partitions: dict[str, int] = {}  # a bit each
        self._erased: dict[bytes, int] = {}  # row key -> until when it was published, epoch ms

    def __bool__(self) -> bool:
        return bool(self._partitions or self._erased)

    def hear(self, row_key: bytes, value: bytes | None, partition: int) -> None:
        """A record of the state topic, whatever row it is of."""
        if row_key.startswith(b"e/"):
            if value is None:
                self._erased.pop(row_key, None)
            else:
                self._erased[row_key] = _row.decode(value).at_ms
            return
        person = suppressed_person(row_key)
        if person is None:
            return
        here, bit = self._partitions.get(person, 0), 1 << partition
        here = here & ~bit if value is None else here | bit
        if here:
            self._partitions[person] = here
        else:
            self._partitions.pop(person, None)

    def names(self, headers: Headers, key: bytes | None, value: bytes | None, at_ms: int) -> bool:
        """Whether a letter, however broken its value, is somebody's who is on the list, or of a lead that was erased.

        at_ms  when it was appended, which counts where it does not say since when its lead is there.
        """
        if self._partitions and any(person in self._partitions for person in people_in(value)):
            return True
        if not self._erased:
            return False
        workspace, _ = addressed_to(headers, key, value)
        until_ms = self._erased.get(erased_row(workspace, lead_id_of(headers, value)))
        return until_ms is not None and (number(headers, HEADERS["origin_ms"]) or at_ms) <= until_ms


def lead_row(workspace: str, lead_id: str) -> bytes:
    """Row key of a cancelled lead, whatever its destination."""
    return f"x/lead/{workspace}/{row_id(lead_id)}".encode()


def erased_row(workspace: str, lead_id: str) -> bytes:
    """Row key of an erased lead, whatever its destination; it stays."""
    return f"e/{workspace}/{row_id(lead_id)}".encode()


def is_erased(found: Suppression | None, first_at_ms: int) -> bool:
    """Whether a story that began then is of a lead that was erased: nothing known of it must come back."""
    return found is not None and first_at_ms <= found.at_ms


def is_unwanted(who: LeadRef, first_at_ms: int, find: Callable[[bytes], Suppression | None], alias: Alias) -> bool:
    """Whether nothing of this record may be written once more: its lead was erased, or its person is on the list."""
    there = who.destination
    if is_erased(find(erased_row(there.workspace, who.lead_id)), first_at_ms):
        return True
    own = tuple(person_key(there.workspace, there.alias, each) for each in people_in(who.consumed.value))
    return any(find(person_row(hash_of(key))) is not None for key in person_of(own, alias).aliases)


def people_in(value: bytes | None) -> tuple[str, ...]:
    """All hashes, former ones included, by which the person of a record may be known, whether it is a lead or not.

    () where nobody can be read in it.
    """
    try:
        fields = _named.decode(value or b"").fields
        return (*people(fields), *filter(None, chain(*former_hashes(fields))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()


class _Named(msgspec.Struct):
    fields: dict[str, Any] = {}


_named: Final = msgspec.json.Decoder(_Named)


def import_row(workspace: str, import_id: str) -> bytes:
    """Row key of a cancelled import: a hash of its name, which may be anything."""
    digest = blake2b(import_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"x/import/{workspace}/{digest}".encode()


def why_not(case: ResolvedLead, find: Callable[[bytes], Suppression | None]) -> Reason | None:
    """Why this lead is not to be sent, None when it may be. `find` gives the row of a key."""
    for found in filter(None, map(find, _rows_about(case))):
        if _binds(found, case):
            return Reason(found.reason, f"{_TEXT[found.reason]} (command {found.command})")
    return None


def _rows_about(case: ResolvedLead) -> Iterator[bytes]:
    yield from map(person_row, filter(None, (*case.people, *case.also, *chain(*case.former))))
    for lead_id in (case.lead_id, *case.former_ids):
        yield lead_row(case.destination.workspace, lead_id)
        yield erased_row(case.destination.workspace, lead_id)
    if case.lead.import_id:
        yield import_row(case.destination.workspace, case.lead.import_id)


def _binds(found: Suppression, case: ResolvedLead) -> bool:
    """A cancellation does not bind what was published, or sent back by an operator, after it."""
    if found.reason == "suppressed":
        return True
    redriven = case.envelope.way == "redriven" and found.reason == "cancelled"
    return (case.consumed.timestamp_ms if redriven else case.envelope.origin_ms) <= found.at_ms
