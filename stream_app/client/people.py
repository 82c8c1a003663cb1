"""What Kafka holds of people.

It says who is suppressed, which leads are a person's, and what remains after an erasure. People are
hashes. Everything is read from all partitions.
"""

import re
from collections.abc import Collection, Iterable, Sequence, Set
from contextlib import suppress
from typing import Any, Final

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import topic_reader
from stream_app.domain.commands import CommandKind
from stream_app.domain.delivery.state_machine import Delivery, lead_of
from stream_app.domain.delivery.suppression import Suppression, suppressed_person
from stream_app.domain.lead.fields import clean_email, clean_linkedin
from stream_app.domain.lead.identity import (
    hashes,
    identifiers_of,
    is_of_person,
    people,
    plain_id,
    rows_of,
    strong,
)
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import Result, Scalar
from stream_app.domain.model.topics import COMMANDS_DAYS, wait_days
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.kafka.readers import Progress


class _Listed(msgspec.Struct, frozen=True):
    """The field that is read of an entry of the list."""

    person: str


_HASH: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_listed: Final = msgspec.json.Decoder(list[_Listed])
_suppression: Final = msgspec.json.Decoder(Suppression)


class Suppressed(msgspec.Struct, frozen=True):
    """A person on the list."""

    person: str  # the hash
    since_ms: int
    who: str
    command: str
    everywhere: bool  # every partition has the entry


def hashes_of(lines: Iterable[str], *, hashed: bool = False) -> list[str]:
    """Hash people, each given as an e-mail or a LinkedIn URL. Blank lines are skipped.

    `hashed`: accept hashes too.

    Raises:
        SettingsError: Some lines are neither; their numbers are named, not their content.
    """
    persons: dict[str, None] = {}
    bad: list[str] = []
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()):
            continue
        if hashed and _HASH.fullmatch(text):
            persons[text] = None
            continue
        email = clean_email(text)
        linkedin = clean_linkedin(text)
        fields: dict[str, Scalar] = (
            {"linkedin_url": linkedin} if linkedin else {"email": email} if email else {}
        )
        if known := people(fields):
            persons[known[0]] = None
        else:
            bad.append(f"number {number} is neither an e-mail nor a LinkedIn URL of a person")
    if bad:
        raise SettingsError(bad)
    return list(persons)


def persons_in(text: str) -> list[str]:
    """Return the persons in a file: one on each line, or the entries of a list written as JSON.

    Raises SettingsError if it begins like such a list, and is none.
    """
    if not text.lstrip().startswith("["):
        return text.splitlines()
    try:
        return [listed.person for listed in _listed.decode(text)]
    except msgspec.DecodeError as error:
        raise SettingsError(
            [f"the file is not what `suppress list --json` writes: {error}"],
        ) from None


async def on_the_list(settings: Settings, progress: Progress) -> list[Suppressed]:
    """Read the whole list, oldest entry first. Raises BrokerUnavailable."""
    rows: dict[str, dict[int, Suppression]] = {}
    async with topic_reader(settings, progress) as reader:
        async for records in reader.read(settings.names.state):
            for record in records:
                person = suppressed_person(record.key)
                if person is None:
                    continue
                partitions = rows.setdefault(person, {})
                if record.value is None:
                    partitions.pop(record.partition, None)
                else:
                    partitions[record.partition] = _suppression.decode(record.value)
    suppressed = [
        Suppressed(
            person,
            first.at_ms,
            first.who,
            first.command,
            len(partitions) == settings.kafka.partitions,
        )
        for person, partitions in rows.items()
        if partitions and (first := min(partitions.values(), key=lambda row: row.at_ms))
    ]
    return sorted(suppressed, key=lambda entry: (entry.since_ms, entry.person))


_KEY_SLASHES: Final = 3
_row: Final = msgspec.json.Decoder(Delivery)
_result: Final = msgspec.json.Decoder(Result)


class StoredLead(msgspec.Struct, frozen=True):
    """A lead with stored data.

    Attributes:
        people: All hashes of its person, by its own fields and by its links to other leads.
        own: Those of its own fields.
        is_named: It is the lead that was asked for, or its own fields have what was asked for.
            Otherwise only links lead to it, and it may be another person's.
    """

    workspace: str
    lead_id: str
    destinations: tuple[str, ...]
    people: tuple[str, ...]
    own: tuple[str, ...] = ()
    is_named: bool = True


class RemainingData(msgspec.Struct, frozen=True):
    """A place that keeps data of an erased person.

    Attributes:
        place: A topic, or Clay.
        days: For how many days from now it keeps the data at most; None: without limit.
        what: Whether it is personal data, or only ids and hashes.
    """

    place: str
    days: int | None
    what: str


def remains(settings: Settings) -> list[RemainingData]:
    """List every place that keeps data after an erasure, and how long.

    Each limit is a day above the topic's retention, because Kafka deletes whole segments.
    """
    names = settings.names
    topics = settings.topics
    raw = "the lead as it was published"
    answer = "Clay's answer"
    ids = "ids and hashes"
    callbacks = f"{answer}, also one that comes after the erasure: then it publishes nothing"
    kept = [
        (names.leads, topics.leads_days, raw),
        (names.bulk, topics.bulk_days, raw),
        (names.retry, topics.leads_days, raw),
        (names.deferred, topics.deferred_days, raw),
        *(
            (names.wait(tier_s), wait_days(settings.replay.tiers_s), raw)
            for tier_s in settings.replay.tiers_s
        ),
        (names.dlq, topics.dlq_days, raw),
        (names.parked, topics.parked_days, raw),
        (names.callbacks, topics.callbacks_days, callbacks),
        (names.commands, COMMANDS_DAYS, ids),
        (names.audit, topics.audit_days, ids),
        (names.status, topics.status_days, ids),
    ]
    return [
        *(RemainingData(place, days + 1, what) for place, days, what in kept),
        RemainingData(names.enriched, 2, f"{answer}, until Kafka compacts it behind the tombstone"),
        RemainingData(names.state, None, f"{ids}, so that the person is never sent again"),
        RemainingData("Clay", None, "its row, until an operator deletes it there"),
    ]


class _LinkedLeads:
    """Collects the leads, destinations and people that belong together.

    A lead that was never sent, and that was not asked for by its id, leads to no other person: a
    producer may name any two people in one lead.
    """

    def __init__(
        self,
        persons: Collection[str],
        lead_id: str | None,
        workspace: str | None,
    ) -> None:
        self._asked = {*persons, *([lead_id[2:]] if lead_id and is_of_person(lead_id) else [])}
        self.people = set(persons)
        self.hashes: set[str] = set()
        self.named_in: set[str] = set()
        self._lead_id = None if lead_id is None else plain_id(lead_id)
        self._workspace = workspace
        self.leads: dict[tuple[str, str], set[str]] = {}
        self._own: dict[tuple[str, str], set[str]] = {}
        self._began: dict[tuple[str, str], int] = {}
        self._erased: dict[tuple[str, str], int] = {}

    def add_row(self, key: bytes, value: bytes) -> None:
        """Add a row of the state: of a delivery, of a person, or of a lead that was erased.

        The row of a person names the person's leads and all of the person's hashes.
        """
        kind = key[:2]
        parts = key[2:].decode("utf-8", "replace").split("/", 2)
        if kind == b"e/" and len(parts) == 2:
            with suppress(*UNREADABLE):
                self._erased[parts[0], parts[1]] = _suppression.decode(value).at_ms
        if len(parts) < 3:
            return
        workspace, destination, name = parts
        if kind == b"p/":
            persons = set(identifiers_of(key, value))
            for lead_id in [
                lead_of(row)[2] for row in rows_of(value) if row.count(b"/") >= _KEY_SLASHES
            ]:
                linked = not self.people.isdisjoint(persons)
                if linked or self._names((workspace, lead_id)):
                    self._add((workspace, destination, lead_id), persons if linked else set())
        elif kind == b"d/":
            try:
                row = _row.decode(value)
            except UNREADABLE:
                return  # `stream-app books` reports the unreadable row
            place = (workspace, destination, name.partition("!")[0])
            self._add_data(
                place,
                row.first_at_ms,
                row.person,
                row.people,
                sent=bool(row.webhook_id),
            )

    def add_result(self, _: bytes, value: bytes) -> None:
        """Add a result. An unreadable one is left out."""
        try:
            result = _result.decode(value)
        except UNREADABLE:
            return
        place = (result.workspace, result.destination, result.lead_id)
        for others in (result.people, hashes(result.fields)):
            self._add_data(place, result.at_ms, result.person, others, sent=result.source == "clay")

    def stored(self) -> list[StoredLead]:
        """Return the leads that were found.

        A lead that only links lead to, and that was erased before, is left out.
        """
        people = tuple(sorted(self.hashes))
        stored = []
        for lead, destinations in sorted(self.leads.items()):
            own = self._own.get(lead, set())
            is_named = self._names(lead) or not self._asked.isdisjoint(own)
            is_left = lead not in self._erased or self._began.get(lead, 0) > self._erased[lead]
            if is_named or is_left:
                aliases = tuple(sorted(destinations))
                stored.append(
                    StoredLead(*lead, aliases, people, own=tuple(sorted(own)), is_named=is_named),
                )
        return stored

    def _add_data(
        self,
        place: tuple[str, str, str],
        began_ms: int,
        person: str,
        others: Sequence[str],
        *,
        sent: bool,
    ) -> None:
        """Add a row or a result of a workspace, destination and lead id.

        `others` are `domain.lead.identity.hashes`: other people may share the hash of a name.
        """
        lead = (place[0], place[2])
        persons = {person, *others} - {""}
        named = self._names(lead)
        if named or not self.people.isdisjoint({person, *strong(others)} - {""} or persons):
            self._add(place, persons if sent or named else persons & self._asked)
        if lead in self.leads:
            self._own.setdefault(lead, set()).update(persons)
            self._began[lead] = max(self._began.get(lead, 0), began_ms)

    def _names(self, lead: tuple[str, str]) -> bool:
        named = lead[1] == self._lead_id and self._workspace in (None, lead[0])
        if named:
            self.named_in.add(lead[0])
        return named

    def _add(self, place: tuple[str, str, str], persons: Set[str]) -> None:
        workspace, destination, lead_id = place
        self.leads.setdefault((workspace, lead_id), set()).add(destination)
        self.people.update(persons)
        self.hashes.update(persons)


async def find_stored_leads(
    settings: Settings,
    persons: Collection[str],
    lead_id: str | None,
    workspace: str | None,
    progress: Progress,
) -> list[StoredLead]:
    """Find all leads of these people, or of the person with this lead id.

    Reads all rows and results.

    `persons` are hashes. Without a workspace only one may have the lead id, unless it is made from
    the person.

    Raises:
        BrokerUnavailable: Kafka does not answer.
        SettingsError: Several workspaces have this lead id.
    """
    matches = _LinkedLeads(persons, lead_id, workspace)
    names = settings.names
    async with topic_reader(settings, progress) as reader:
        known: tuple[int, int] | None = None
        # A row that was read before may match what this pass has found.
        while (size := (len(matches.people), len(matches.leads))) != known:
            known = size
            for topic, add in (
                (names.state, matches.add_row),
                (names.enriched, matches.add_result),
            ):
                async for records in reader.read(topic):
                    for record in records:
                        if record.value is not None:
                            add(record.key, record.value)
    if len(matches.named_in) > 1 and not is_of_person(lead_id or ""):
        where = ", ".join(sorted(matches.named_in))
        raise SettingsError(
            [f"several workspaces have a lead of this id ({where}): pass --workspace"],
        )
    return matches.stored()


def erasure(
    stored: Sequence[StoredLead],
    asked: Collection[str],
    kept: Sequence[StoredLead] = (),
) -> list[tuple[CommandKind, str, dict[str, Any]]]:
    """Return the commands that erase these leads and suppress their people.

    The people come first: no new lead of theirs arrives after the erasure.

    Args:
        stored: The leads to erase.
        asked: The hashes that were asked for.
        kept: Leads that stay. What they have in their own fields is of another person, unless it
            was asked for.

    Returns:
        The kind, workspace and arguments of each command.
    """
    others = {person for lead in kept for person in lead.own} - set(asked)
    persons = sorted({*asked, *(person for lead in stored for person in lead.people)} - others)
    commands: list[tuple[CommandKind, str, dict[str, Any]]] = []
    if persons:
        commands.append(("suppress", "", {"people": persons}))
    for lead in stored:
        mine = tuple(person for person in lead.people if person not in others)
        args = {"lead_id": lead.lead_id, "destinations": lead.destinations, "people": mine}
        commands.append(("erase", lead.workspace, args))
    return commands
