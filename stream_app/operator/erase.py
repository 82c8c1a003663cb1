"""Find the data held of a person or a lead: in the rows and the results, by hashes and lead ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import Any, Final

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import topic_reader
from stream_app.domain.delivery.state_machine import Delivery, lead_of
from stream_app.domain.errors import SettingsError
from stream_app.domain.lane_messages import CommandKind
from stream_app.domain.lead.identity import hashes, is_of_person, plain_id
from stream_app.domain.lead.person import identifiers_of, rows_of, strong
from stream_app.domain.messages import Result
from stream_app.domain.topics import COMMANDS_DAYS, wait_days
from stream_app.kafka.readers import Progress

_KEY_SLASHES: Final = 3
_row: Final = msgspec.json.Decoder(Delivery)
_result: Final = msgspec.json.Decoder(Result)


class StoredLead(msgspec.Struct, frozen=True):
    """A lead with stored data: its destinations, and all hashes of its person."""

    workspace: str
    lead_id: str
    destinations: tuple[str, ...]
    people: tuple[str, ...]


class Remains(msgspec.Struct, frozen=True):
    """A place that keeps data of an erased person.

    Attributes:
        place: A topic, or Clay.
        days: At most so many days from now; None: without limit.
        what: Whether it is personal data, or only ids and hashes.
    """

    place: str
    days: int | None
    what: str


def remains(settings: Settings) -> list[Remains]:
    """List every place that keeps data after an erasure, and how long.

    Each limit is a day above the topic's retention, because Kafka deletes whole segments.
    """
    names, topics = settings.names, settings.topics
    raw, answer, ids = "the lead as it was published", "Clay's answer", "ids and hashes"
    callbacks = f"{answer}, if it came before the erasure or while the gateway's read model was behind"
    kept = [
        (names.leads, topics.leads_days, raw),
        (names.bulk, topics.bulk_days, raw),
        (names.retry, topics.leads_days, raw),
        (names.deferred, topics.deferred_days, raw),
        *((names.wait(tier_s), wait_days(settings.replay.tiers_s), raw) for tier_s in settings.replay.tiers_s),
        (names.dlq, topics.dlq_days, raw),
        (names.parked, topics.parked_days, raw),
        (names.callbacks, topics.callbacks_days, callbacks),
        (names.commands, COMMANDS_DAYS, ids),
        (names.audit, topics.audit_days, ids),
        (names.status, topics.status_days, ids),
    ]
    return [
        *(Remains(place, days + 1, what) for place, days, what in kept),
        Remains(names.enriched, 2, f"{answer}, until Kafka compacts it behind the tombstone"),
        Remains(names.state, None, f"{ids}, so that the person is never sent again"),
        Remains("Clay", None, "its row, until an operator deletes it there"),
    ]


class _Found:
    """Collects the leads, destinations and people that belong together."""

    def __init__(self, persons: Collection[str], lead_id: str | None, workspace: str | None) -> None:
        self.people = set(persons)
        self.hashes: set[str] = set()
        self.named_in: set[str] = set()
        self._lead_id = None if lead_id is None else plain_id(lead_id)
        self._workspace = workspace
        self.leads: dict[tuple[str, str], set[str]] = {}

    def add(self, workspace: str, destination: str, lead_id: str, person: str, others: Sequence[str] = ()) -> None:
        """Add a row or a result. `others`: `domain.lead.identity.hashes`; other people may share a hash of a name."""
        persons = {person, *others} - {""}
        self._add(workspace, destination, lead_id, {person, *strong(others)} - {""} or persons, persons)

    def add_alias(self, workspace: str, destination: str, lead_ids: Sequence[str], persons: Set[str]) -> None:
        """Add an alias row: leads of one person, and all hashes of that person."""
        for lead_id in lead_ids:
            self._add(workspace, destination, lead_id, persons, persons)

    def _add(self, workspace: str, destination: str, lead_id: str, sure: Set[str], persons: Set[str]) -> None:
        named = lead_id == self._lead_id and self._workspace in (None, workspace)
        if named:
            self.named_in.add(workspace)
        if named or not self.people.isdisjoint(sure):
            self.leads.setdefault((workspace, lead_id), set()).add(destination)
            self.people.update(persons)
            self.hashes.update(persons)


async def find_stored_leads(
    settings: Settings, persons: Collection[str], lead_id: str | None, workspace: str | None, progress: Progress
) -> list[StoredLead]:
    """Find all leads of these people, or of the person with this lead id. Reads all rows and results.

    `persons` are hashes. Without a workspace only one may have the lead id, unless it is made from the person.

    Raises:
        BrokerUnavailable: Kafka does not answer.
        SettingsError: Several workspaces have this lead id.
    """
    found = _Found(persons, lead_id, workspace)
    names = settings.names
    async with topic_reader(settings, progress) as reader:
        known = -1
        while len(found.people) > known:  # a new hash may match records that were read before
            known = len(found.people)
            async for records in reader.read(names.state):
                for record in records:
                    if record.value is not None:
                        _add_row(found, record.key, record.value)
            async for records in reader.read(names.enriched):
                for record in records:
                    if record.value is not None:
                        _add_result(found, record.value)
    if len(found.named_in) > 1 and not is_of_person(lead_id or ""):
        where = ", ".join(sorted(found.named_in))
        raise SettingsError([f"several workspaces have a lead of this id ({where}): pass --workspace"])
    people = tuple(sorted(found.hashes))
    return [
        StoredLead(workspace, name, tuple(sorted(destinations)), people)
        for (workspace, name), destinations in sorted(found.leads.items())
    ]


def erasure(stored: Sequence[StoredLead], persons: Sequence[str]) -> list[tuple[CommandKind, str, dict[str, Any]]]:
    """Return kind, workspace and arguments of each command that erases these leads and suppresses these people.

    The people come first, so that no new lead of theirs arrives after the erasure.
    """
    found: list[tuple[CommandKind, str, dict[str, Any]]] = []
    if persons:
        found.append(("suppress", "", {"people": list(persons)}))
    for lead in stored:
        args = {"lead_id": lead.lead_id, "destinations": lead.destinations, "people": lead.people}
        found.append(("erase", lead.workspace, args))
    return found


def _add_row(found: _Found, key: bytes, value: bytes) -> None:
    kind, parts = key[:2], key[2:].decode("utf-8", "replace").split("/", 2)
    if len(parts) < 3:
        return
    workspace, destination, name = parts
    if kind == b"p/":
        leads = [lead_of(row)[2] for row in rows_of(value) if row.count(b"/") >= _KEY_SLASHES]
        found.add_alias(workspace, destination, leads, set(identifiers_of(key, value)))
    elif kind == b"d/":
        try:
            row = _row.decode(value)
        except msgspec.DecodeError:
            return  # `stream-app books` reports the unreadable row
        found.add(workspace, destination, name.partition("!")[0], row.person, row.people)


def _add_result(found: _Found, value: bytes) -> None:
    try:
        result = _result.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    place = (result.workspace, result.destination, result.lead_id)
    found.add(*place, result.person, result.people)
    found.add(*place, result.person, hashes(result.fields))
