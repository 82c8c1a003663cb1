"""What the record of a lead means: its destination, row key, identity and request for Clay.

`dedup` says whether the record is a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from stream_app.domain.delivery.envelope import RETURNS, Envelope
from stream_app.domain.delivery.state_machine import (
    Delivery,
    Reason,
    Verdict,
    begin,
    classify_record,
    delivery_key,
    item_id,
    lead_of,
    may_be_at_clay,
)
from stream_app.domain.lead.identity import (
    Person,
    company,
    hash_of,
    identifiers,
    identify,
    is_plain_id,
    person_key,
)
from stream_app.domain.lead.read import Unreadable, clay_row, label
from stream_app.domain.model.messages import Lead
from stream_app.domain.model.pseudonyms import plain_digest
from stream_app.domain.model.records import ConsumedRecord, trace_of, traceparent
from stream_app.domain.model.tokens import sign
from stream_app.domain.plan import MAX_PAYLOAD_BYTES, Destination, Plan

_json: Final = msgspec.json.Encoder()
_THEN: Final = "add it, then: stream-app replay select --disposition policy --reason"
Find = Callable[[bytes], Delivery | None]  # returns the row of a lead by its key
_SAME_LEAD: Final = Reason("same_lead_id", "a lead with this id was accepted before")

_MAY_BE_AT_CLAY: Final = Reason(
    "may_be_at_clay",
    "the lead with this id is a dead letter that may have reached Clay: look for it in "
    "Clay's table, then send it back "
    "with `stream-app replay redrive --uncertain`, or publish it with force",
)


class LeadRef(msgspec.Struct, frozen=True):
    """The lead that a record is about."""

    consumed: ConsumedRecord
    envelope: Envelope
    lead_id: str
    destination: Destination
    key: bytes  # the key of the lead's row
    aliases: tuple[bytes, ...] = ()  # the keys of the alias rows of the lead's own identifiers


class ResolvedLead(LeadRef, frozen=True, kw_only=True):
    """A lead with all that is resolved about it before any decision.

    Attributes:
        lead: The lead itself.
        body: The request for Clay.
        bulk: True if it was published as bulk, whatever topic the record comes from now.
        identity: Hash of the person, under which results are cached; '' if no result comes.
        company: Hash of the company; '' if no result comes.
        people: All hashes of the person (`domain.lead.identity.hashes`).
        also: Other hashes of the same person, known from its alias rows.
    """

    lead: Lead
    body: bytes
    bulk: bool = False
    identity: str = ""
    company: str = ""
    people: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def with_person(self, person: Person) -> ResolvedLead:
        """Return the lead with what is known of its person."""
        if len(person.aliases) == len(self.aliases):
            return self
        return msgspec.structs.replace(
            self,
            also=tuple(map(hash_of, person.aliases[len(self.aliases) :])),
        )

    def begin(self, now_ms: int) -> Delivery:
        return begin(self.envelope, now_ms, self.identity, self.company, self.people)


def resolve_lead(
    plan: Plan,
    consumed: ConsumedRecord,
    envelope: Envelope,
    lead: Lead,
) -> ResolvedLead | Unreadable:
    """Return the lead with its destination and identity, or why this configuration lacks them."""
    workspace = plan.workspaces.get(lead.workspace or "")
    if workspace is None:
        named = label(lead.workspace or "")
        return Unreadable(
            "unknown_workspace",
            f'its workspace "{named}" is not configured: {_THEN} unknown_workspace',
        )
    name = workspace.name
    # A returning lead keeps its destination even if the default has changed.
    alias = lead.destination or envelope.destination or workspace.default_destination
    destination = plan.destination(name, alias)
    if destination is None:
        return Unreadable(
            "unknown_destination",
            f"its workspace has no such destination: {_THEN} unknown_destination",
        )
    who = identify(lead, cleaned=True)
    if who is None:
        return Unreadable("no_identity", "no identity: give lead_id, email, linkedin_url or a name")
    forced_origin = (envelope.dead_letter or envelope.origin) if lead.force else ""
    if not envelope.trace_id:
        envelope = msgspec.structs.replace(envelope, trace_id=trace_of(envelope.origin))
    # Each record of a forced lead is a delivery of its own, so that no other row of this lead makes
    # it a duplicate.
    key = delivery_key(name, alias, who.lead_id, forced_origin)
    if destination.routine is not None:
        body = run_body_of(lead, destination, key, plan.sizes.payload)
    else:
        echo = {"lead_id": who.lead_id, **_way_back(plan, destination, who.lead_id, forced_origin)}
        if plan.traces:
            echo["traceparent"] = traceparent(envelope.trace_id, envelope.origin)
        body = body_of(lead, destination.columns, echo, plan.sizes.payload)
    if isinstance(body, Unreadable):
        return body
    identity = ""
    firm = ""
    if destination.callbacks:
        identity = who.person or plain_digest("lead", who.lead_id)
        firm = company(lead.fields)
    return ResolvedLead(
        consumed=consumed,
        envelope=envelope,
        lead=lead,
        lead_id=who.lead_id,
        destination=destination,
        key=key,
        aliases=tuple(
            person_key(name, alias, identifier) for identifier in identifiers(who.people)
        ),
        body=body,
        bulk=envelope.origin.startswith(f"{plan.topics.bulk}/"),
        identity=identity,
        company=firm,
        people=who.people,
    )


def body_of(
    lead: Lead,
    columns: Mapping[str, str],
    echo: Mapping[str, str],
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> bytes | Unreadable:
    """Return the request for a webhook, or why Clay would not accept it.

    For `columns` and `echo` see `clay_row`.
    """
    row = clay_row(lead.fields, columns, echo)
    return row if isinstance(row, Unreadable) else _within(max_bytes, _json.encode(row))


def run_body_of(
    lead: Lead,
    destination: Destination,
    key: bytes,
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> bytes | Unreadable:
    """Return the request that runs a routine with one lead, or why it would not be accepted.

    The request has one item, whose id follows from the key of the lead's row. It has nothing to be
    echoed, because the worker asks for the results, and because Clay may refuse a run with an input
    that the routine does not have.
    """
    inputs = clay_row(lead.fields, destination.columns, {})
    if isinstance(inputs, Unreadable):
        return inputs
    run: dict[str, object] = {"items": [{"id": item_id(key), "inputs": inputs}]}
    if destination.run_webhook is not None:
        run["webhook_id"] = destination.run_webhook
    return _within(max_bytes, _json.encode(run))


def _within(max_bytes: int, body: bytes) -> bytes | Unreadable:
    if len(body) > max_bytes:
        return Unreadable(
            "payload_oversize",
            "what Clay would be sent is larger than the 100 KB that it takes",
        )
    return body


def find_lead_ref(
    plan: Plan,
    consumed: ConsumedRecord,
    envelope: Envelope,
    lead: Lead | Unreadable,
    find: Find,
) -> LeadRef | None:
    """Return the lead of a record that cannot be sent.

    The lead is found by the headers, or else by what can be read of the value. Its destination may
    have left the configuration. `find` returns the row of a lead.

    Returns:
        The lead; None if the record has no history, so that it is to be rejected. A history has
        begun if it has a row or if its record comes back.
    """
    workspace = (consumed.key or b"").decode("utf-8", "replace")
    alias = envelope.destination
    lead_id = envelope.lead_id
    if (
        not lead_id
        and isinstance(lead, Lead)
        and lead.workspace
        and (who := identify(lead, cleaned=True)) is not None
    ):
        configured = plan.workspaces.get(lead.workspace)
        workspace = lead.workspace
        lead_id = who.lead_id
        alias = lead.destination or (configured.default_destination if configured else "")
    if not (lead_id and is_plain_id(alias) and is_plain_id(workspace)):
        return None
    if workspace in plan.workspaces and plan.home_of(workspace) != consumed.partition:
        return None
    plain = delivery_key(workspace, alias, lead_id)
    keys = (delivery_key(workspace, alias, lead_id, envelope.dead_letter or envelope.origin), plain)
    key = next(
        (key for key in keys if (row := find(key)) is not None and row.origin == envelope.origin),
        None,
    )
    if key is None and envelope.way not in RETURNS:
        return None
    destination = plan.destination(workspace, alias) or Destination(alias, workspace, ())
    return LeadRef(consumed, envelope, lead_id, destination, key or plain)


def dedup(
    resolved: ResolvedLead,
    others: Iterable[bytes],
    find: Find,
    now_ms: int,
    freshness_ms: int,
) -> tuple[Delivery | None, Verdict, Reason]:
    """Return the row of the lead, the verdict on the record, and the reason in case of a duplicate.

    `others` are the row keys of the same person's leads. A final row blocks the same lead for
    `freshness_ms`. A dead letter that Clay never had blocks the person's other leads, but not its
    own lead, which begins a new history.
    """
    row = find(resolved.key)
    verdict = classify_record(row, resolved.envelope, now_ms, freshness_ms)
    if verdict not in ("fresh", "replaces"):
        return row, verdict, _MAY_BE_AT_CLAY if may_be_at_clay(row) else _SAME_LEAD
    if not resolved.lead.force:
        for other in others:
            if other != resolved.key and (
                why := _blocks(other, find(other), resolved.envelope, now_ms, freshness_ms)
            ):
                return row, "duplicate", why
    return row, "fresh", _SAME_LEAD


def _blocks(
    key: bytes,
    row: Delivery | None,
    envelope: Envelope,
    now_ms: int,
    freshness_ms: int,
) -> Reason | None:
    """Return why another lead of the person makes this record a duplicate; None if it does not."""
    match classify_record(row, envelope, now_ms, freshness_ms):
        case "duplicate":
            return Reason(
                "same_person",
                f"the same person was accepted before, as lead {lead_of(key)[2]}",
            )
        case "replaces":
            text = (
                f"the same person has a dead letter, as lead {lead_of(key)[2]}: publish it again "
                "under that id"
            )
            return Reason("same_person", text)
    return None


def _way_back(
    plan: Plan,
    destination: Destination,
    lead_id: str,
    forced_origin: str,
) -> dict[str, str]:
    """Return what Clay echoes: the callback URL, and the token that proves which lead it is for."""
    if not (destination.callbacks and destination.callback_url):
        return {}
    if plan.callback_keys is None:
        return {"callback_url": destination.callback_url}
    token = sign(
        plan.callback_keys,
        destination.workspace,
        destination.alias,
        lead_id,
        forced_origin,
    )
    return {"callback_url": destination.callback_url, "callback_token": token}
