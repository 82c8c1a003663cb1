"""The suppression list, as hashes of people: read from all partitions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import topic_reader
from stream_app.domain.errors import SettingsError
from stream_app.domain.lead.fields import clean_email, clean_linkedin
from stream_app.domain.lead.identity import people
from stream_app.domain.lead.suppression import Suppression, suppressed_person
from stream_app.domain.messages import Scalar
from stream_app.kafka.readers import Progress


class _Listed(msgspec.Struct, frozen=True):
    """The field that is read of an entry of the list."""

    person: str


_HASH: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_listed: Final = msgspec.json.Decoder(list[_Listed])
_suppression: Final = msgspec.json.Decoder(Suppression)


class Suppressed(msgspec.Struct, frozen=True):
    """A person on the list.

    Attributes:
        person: The hash.
        everywhere: Every partition has the entry.
    """

    person: str
    since_ms: int
    who: str
    command: str
    everywhere: bool


def hashes_of(lines: Iterable[str], *, hashed: bool = False) -> list[str]:
    """Hash people, each given as an e-mail or a LinkedIn URL. Blank lines are skipped.

    `hashed`: accept hashes too.

    Raises:
        SettingsError: Some lines are neither; their numbers are named, not their content.
    """
    found: dict[str, None] = {}
    bad: list[str] = []
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()):
            continue
        if hashed and _HASH.fullmatch(text):
            found[text] = None
            continue
        email, linkedin = clean_email(text), clean_linkedin(text)
        fields: dict[str, Scalar] = {"linkedin_url": linkedin} if linkedin else {"email": email} if email else {}
        if known := people(fields):
            found[known[0]] = None
        else:
            bad.append(f"number {number} is neither an e-mail nor a LinkedIn URL of a person")
    if bad:
        raise SettingsError(bad)
    return list(found)


def persons_in(text: str) -> list[str]:
    """Return the persons in a file: one on each line, or those of a list that was written as JSON.

    Raises:
        SettingsError: It begins like such a list, and is none.
    """
    if not text.lstrip().startswith("["):
        return text.splitlines()
    try:
        return [listed.person for listed in _listed.decode(text)]
    except msgspec.DecodeError as error:
        raise SettingsError([f"the file is not what `suppress list --json` writes: {error}"]) from None


async def on_the_list(settings: Settings, progress: Progress) -> list[Suppressed]:
    """Read the whole list, oldest entry first. Raises BrokerUnavailable."""
    rows: dict[str, dict[int, Suppression]] = {}
    async with topic_reader(settings, progress) as reader:
        async for records in reader.read(settings.names.state):
            for record in records:
                person = suppressed_person(record.key)
                if person is None:
                    continue
                here = rows.setdefault(person, {})
                if record.value is None:
                    here.pop(record.partition, None)
                else:
                    here[record.partition] = _suppression.decode(record.value)
    found = [
        Suppressed(person, first.at_ms, first.who, first.command, len(here) == settings.kafka.partitions)
        for person, here in rows.items()
        if here and (first := min(here.values(), key=lambda row: row.at_ms))
    ]
    return sorted(found, key=lambda each: (each.since_ms, each.person))
