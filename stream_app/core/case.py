"""The station *identify*: whose lead it is, where it goes, by which row it is known, and what Clay is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from stream_app.core.callback_token import sign
from stream_app.core.delivery import Delivery, begin, delivery_key
from stream_app.core.envelope import RETURNS, Envelope
from stream_app.core.lead import (
    Identity,
    Unreadable,
    clay_row,
    company,
    digest,
    home_partition,
    identify,
    is_plain_id,
)
from stream_app.core.messages import Lead
from stream_app.core.person import Person, hash_of, identifiers, person_key
from stream_app.core.policy import MAX_PAYLOAD_BYTES, Destination, Plan
from stream_app.core.record import Taken

_json: Final = msgspec.json.Encoder()


class Subject(msgspec.Struct, frozen=True):
    """Whom a story is about.

    taken   the record that brings it on, with its `envelope`.
    key     of its row; `aliases` of the alias rows of its own identifiers.
    """

    taken: Taken
    envelope: Envelope
    lead_id: str
    destination: Destination
    key: bytes
    aliases: tuple[bytes, ...] = ()


class Case(Subject, frozen=True, kw_only=True):
    """A lead with all that was found out about it before any decision. `body`: what Clay is sent.

    bulk     whether it came in as bulk, by whatever topic it comes now.
    identity, company  hashes of who it is and of his company, by which results are remembered; '' where none comes.
    people  core.lead.hashes of who it is; `also` hashes of what else the person is known by here.
    """

    lead: Lead
    body: bytes
    bulk: bool = False
    identity: str = ""
    company: str = ""
    people: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def of(self, person: Person) -> Case:
        """The same lead with what is known of its person."""
        if len(person.aliases) == len(self.aliases):
            return self
        return msgspec.structs.replace(self, also=tuple(map(hash_of, person.aliases[len(self.aliases) :])))

    def begin(self, now_ms: int) -> Delivery:
        """A row for its story."""
        return begin(self.envelope, now_ms, self.identity, self.company, self.people)


_THEN: Final = "add it, then: stream-app replay select --disposition policy --reason"


def case_of(plan: Plan, taken: Taken, envelope: Envelope, lead: Lead) -> Case | Unreadable:
    """The lead with its destination and its identity, or why this configuration knows none for it."""
    workspace = plan.workspaces.get(lead.workspace or "")
    if workspace is None:
        return Unreadable("unknown_workspace", f"its workspace is not configured: {_THEN} unknown_workspace")
    # One that comes back stays where it was going, whatever the default has become.
    alias = lead.destination or envelope.destination or workspace.default_destination
    destination = plan.destination(workspace.name, alias)
    if destination is None:
        return Unreadable("unknown_destination", f"its workspace has no such destination: {_THEN} unknown_destination")
    who = identify(lead)
    if who is None:
        return Unreadable("no_identity", "nothing says who this is: give lead_id, email, linkedin_url or a name")
    forced_origin = (envelope.letter or envelope.origin) if lead.force else ""
    echo = {"lead_id": who.lead_id, **_way_back(plan, destination, who.lead_id, forced_origin)}
    body = body_of(lead, destination.columns, echo, plan.line.max_payload_bytes)
    if isinstance(body, Unreadable):
        return body
    if not envelope.trace_id:
        envelope = msgspec.structs.replace(envelope, trace_id=trace_of(envelope.origin))
    place = workspace.name, destination.alias
    identity, firm = _known_by(destination, lead, who)
    # A forced lead is a delivery of its own, once for each record: no row of this lead may answer for it.
    return Case(
        taken=taken,
        envelope=envelope,
        lead=lead,
        lead_id=who.lead_id,
        destination=destination,
        key=delivery_key(*place, who.lead_id, forced_origin),
        aliases=tuple(person_key(*place, each) for each in identifiers(who.people)),
        body=body,
        bulk=envelope.origin.startswith(f"{plan.topics.bulk}/"),
        identity=identity,
        company=firm,
        people=who.people,
    )


def body_of(
    lead: Lead, columns: Mapping[str, str], echo: Mapping[str, str], most_bytes: int = MAX_PAYLOAD_BYTES
) -> bytes | Unreadable:
    """What Clay is sent, or why it would not take it. `columns`, `echo`: see `lead.clay_row`."""
    row = clay_row(lead.fields, columns, echo)
    if isinstance(row, Unreadable):
        return row
    body = _json.encode(row)
    if len(body) > most_bytes:
        return Unreadable("payload_oversize", "what Clay would be sent is larger than the 100 KB that it takes")
    return body


def whose(
    plan: Plan, taken: Taken, envelope: Envelope, lead: Lead | Unreadable, find: Callable[[bytes], Delivery | None]
) -> Subject | None:
    """The story to which a record belongs that cannot be sent; None where it begins none and is to be rejected.

    By its headers, else by what can be read of it: a story has begun if there is a row of it, or if its record comes
    back. The configuration may have forgotten its destination. `find` gives the row of a lead by its key.
    """
    workspace, alias, lead_id = (taken.key or b"").decode("utf-8", "replace"), envelope.destination, envelope.lead_id
    if not lead_id and isinstance(lead, Lead) and lead.workspace and (who := identify(lead)) is not None:
        there = plan.workspaces.get(lead.workspace)
        workspace, lead_id = lead.workspace, who.lead_id
        alias = lead.destination or (there.default_destination if there else "")
    if not (lead_id and is_plain_id(alias) and is_plain_id(workspace)):
        return None
    if workspace in plan.workspaces and home_partition(workspace, plan.partitions, plan.pins) != taken.partition:
        return None
    plain = delivery_key(workspace, alias, lead_id)
    keys = delivery_key(workspace, alias, lead_id, envelope.letter or envelope.origin), plain
    key = next((key for key in keys if (row := find(key)) is not None and row.origin == envelope.origin), None)
    if key is None and envelope.way not in RETURNS:
        return None
    destination = plan.destination(workspace, alias) or Destination(alias, workspace, ())
    return Subject(taken, envelope, lead_id, destination, key or plain)


def _known_by(destination: Destination, lead: Lead, who: Identity) -> tuple[str, str]:
    if not destination.callbacks:
        return "", ""
    return who.person or digest("lead", who.lead_id), company(lead.fields)


def _way_back(plan: Plan, destination: Destination, lead_id: str, forced_origin: str) -> dict[str, str]:
    """Where its callback goes, and what proves that it is about this very lead: Clay sends both back as they are."""
    if not (destination.callbacks and destination.callback_url):
        return {}
    if plan.callback_keys is None:
        return {"callback_url": destination.callback_url}
    token = sign(plan.callback_keys, destination.workspace, destination.alias, lead_id, forced_origin)
    return {"callback_url": destination.callback_url, "callback_token": token}


def trace_of(origin: str) -> str:
    """A W3C trace id for a record that brought none: the same for every copy of it."""
    return blake2b(origin.encode(), digest_size=16).hexdigest()
