"""What is held of a person or a lead, found from the outside: in the rows and among the results, by hashes and ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import Final

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.delivery.state_machine import Delivery, lead_of
from stream_app.domain.errors import SettingsError
from stream_app.domain.lead.lead import former_ids_of, hashes, plain_id
from stream_app.domain.lead.person import identifiers_of, rows_of, strong
from stream_app.domain.messages import Result
from stream_app.kafka.readers import Progress, TopicReader

_KEY_SLASHES: Final = 3
_row: Final = msgspec.json.Decoder(Delivery)
_result: Final = msgspec.json.Decoder(Result)


class Held(msgspec.Struct, frozen=True):
    """A lead of which something is held: where it went, and all hashes that its person is known by."""

    workspace: str
    lead_id: str
    destinations: tuple[str, ...]
    people: tuple[str, ...]


class Remains(msgspec.Struct, frozen=True):
    """A place where something of an erased person stays. `days`: at most so long from now; None: it has no end.

    what  whether it can be read as personal data, or is ids and hashes only.
    """

    place: str
    days: int | None
    what: str


def remains(settings: Settings) -> list[Remains]:
    """Every place where something stays after an erasure, and until when. A partition may keep a day more than its
    topic says: Kafka deletes whole segments.
    """
    names, topics = settings.names, settings.topics
    raw, answer, ids = "the lead as it was published", "Clay's answer", "ids and hashes"
    callbacks = f"{answer}, if it came before the erasure or while the gateway's read model was behind"
    kept = [
        (names.leads, topics.leads_days, raw),
        (names.bulk, topics.bulk_days, raw),
        (names.retry, topics.retry_days, raw),
        (names.deferred, topics.deferred_days, raw),
        *((names.wait(tier_s), topics.wait_days, raw) for tier_s in settings.replay.tiers_s),
        (names.dlq, topics.dlq_days, raw),
        (names.parked, topics.parked_days, raw),
        (names.callbacks, topics.callbacks_days, callbacks),
        (names.commands, topics.commands_days, ids),
        (names.audit, topics.audit_days, ids),
        (names.status, topics.status_days, ids),
    ]
    return [
        *(Remains(place, days + 1, what) for place, days, what in kept),
        Remains(names.enriched, 2, f"{answer}, until Kafka compacts it behind the tombstone"),
        Remains(names.state, None, f"{ids}, by which the person is never sent again"),
        Remains("Clay", None, "its row, until somebody deletes it there"),
    ]


class _Found:
    """Leads, destinations and people that belong together, as far as what was read says so."""

    def __init__(self, persons: Collection[str], lead_ids: Collection[str], workspace: str | None) -> None:
        self.people = set(persons)
        self.heard: set[str] = set()
        self.named_in: set[str] = set()
        self._lead_ids = frozenset(lead_ids)
        self._workspace = workspace
        self.leads: dict[tuple[str, str], set[str]] = {}

    def hear(self, workspace: str, destination: str, lead_id: str, person: str, others: Sequence[str] = ()) -> None:
        """Of a row or a result: whose it is. `others`: core.lead.hashes, of which a name may be another one's, too."""
        persons = {person, *others} - {""}
        self._hear(workspace, destination, lead_id, {person, *strong(others)} - {""} or persons, persons)

    def hear_alias(self, workspace: str, destination: str, lead_ids: Sequence[str], persons: Set[str]) -> None:
        """Of an alias row: leads of one person, and all that the person is known by."""
        for lead_id in lead_ids:
            self._hear(workspace, destination, lead_id, persons, persons)

    def _hear(self, workspace: str, destination: str, lead_id: str, sure: Set[str], persons: Set[str]) -> None:
        named = lead_id in self._lead_ids and self._workspace in (None, workspace)
        if named:
            self.named_in.add(workspace)
        if named or not self.people.isdisjoint(sure):
            self.leads.setdefault((workspace, lead_id), set()).add(destination)
            self.people.update(persons)
            self.heard.update(persons)


async def find_held(
    settings: Settings, persons: Collection[str], lead_id: str | None, workspace: str | None, progress: Progress
) -> list[Held]:
    """All leads of these people (hashes), or those of whoever has this id. Reads the rows and all results.

    workspace  where the id is to be found; None: it may be in one only, unless it is made from the person.

    Raises BrokerUnavailable, SettingsError.
    """
    ids = () if lead_id is None else (plain_id(lead_id), *former_ids_of(lead_id))
    found = _Found(persons, ids, workspace)
    names, partitions = settings.names, settings.kafka.partitions
    async with TopicReader(connection_of(settings), partitions, progress) as reader:
        known = -1
        while len(found.people) > known:  # by what a row says of its person, others that came before it may be his, too
            known = len(found.people)
            async for records in reader.read(names.state):
                for record in records:
                    if record.value is not None:
                        _hear_row(found, record.key, record.value)
            async for records in reader.read(names.enriched):
                for record in records:
                    if record.value is not None:
                        _hear_result(found, record.value)
    if len(found.named_in) > 1 and not (lead_id or "").startswith("p-"):
        where = ", ".join(sorted(found.named_in))
        raise SettingsError([f"a lead of this id is in each of the workspaces {where}: say --workspace"])
    everybody = tuple(sorted(found.heard))
    return [
        Held(workspace, name, tuple(sorted(destinations)), everybody)
        for (workspace, name), destinations in sorted(found.leads.items())
    ]


def _hear_row(found: _Found, key: bytes, value: bytes) -> None:
    kind, parts = key[:2], key[2:].decode("utf-8", "replace").split("/", 2)
    if len(parts) < 3:
        return
    workspace, destination, name = parts
    if kind == b"p/":
        leads = [lead_of(row)[2] for row in rows_of(value) if row.count(b"/") >= _KEY_SLASHES]
        found.hear_alias(workspace, destination, leads, set(identifiers_of(key, value)))
    elif kind == b"d/":
        try:
            row = _row.decode(value)
        except msgspec.DecodeError:
            return  # `stream-app books` names it
        found.hear(workspace, destination, name.partition("!")[0], row.person, row.people)


def _hear_result(found: _Found, value: bytes) -> None:
    try:
        result = _result.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    place = (result.workspace, result.destination, result.lead_id)
    found.hear(*place, result.person, result.people)
    found.hear(*place, result.person, hashes(result.fields))
