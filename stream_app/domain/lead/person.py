"""Which leads are of one person: every e-mail address and every LinkedIn URL of a person leads to all of them.

Each identifier (a hash) has an alias row for each destination. Its value names the rows of the person's leads that
count, and the person's other identifiers. So any identifier finds the whole person in one look-up:

    p/acme/people/<hash of an e-mail>  ->  d/acme/people/<lead id> <hash of a LinkedIn URL>

A lead with identifiers that were not known together makes them one person, whether it is sent or ends as a duplicate.
A name with a company's domain identifies a lead that has nothing better; it is never one identifier of several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

MOST_IDENTIFIERS: Final = 16
"""What a shared address collects is no person: beyond that many, identifiers that come together are not linked."""

Alias = Callable[[bytes], bytes | None]
"""The value of an alias row, by its key."""


def strong(hashes: Sequence[str]) -> tuple[str, ...]:
    """Those of `core.lead.hashes` that tell a person from everybody else: of the LinkedIn URL and of the e-mail."""
    return tuple(filter(None, hashes[:2]))


def identifiers(hashes: Sequence[str]) -> tuple[str, ...]:
    """Those of `core.lead.hashes` by which leads are of one person: the name only where there is nothing better."""
    return strong(hashes) or tuple(filter(None, hashes[2:]))


def person_key(workspace: str, destination: str, identifier: str) -> bytes:
    """Key of the alias row of an identifier (a hash)."""
    return f"p/{workspace}/{destination}/{identifier}".encode()


class Person(msgspec.Struct, frozen=True, gc=False):
    """What is known of a lead's person.

    aliases  keys of the alias rows of all identifiers, those of the lead itself first.
    rows     keys of the rows of leads.
    """

    aliases: tuple[bytes, ...] = ()
    rows: tuple[bytes, ...] = ()


def person_of(own: tuple[bytes, ...], alias: Alias) -> Person:
    """The person of a lead with these alias keys; of more identifiers than are linked, not all are looked up."""
    aliases, rows = list(own), dict[bytes, None]()
    for key in aliases:  # grows meanwhile
        if (value := alias(key)) is None:
            continue
        place = key.rpartition(b"/")[0]
        for word in value.split():
            if word.startswith(b"d/"):
                rows[word] = None
            elif (other := place + b"/" + word) not in aliases and len(aliases) <= MOST_IDENTIFIERS:
                aliases.append(other)
    return Person(tuple(aliases), tuple(rows))


def claimed(person: Person, own: tuple[bytes, ...], row: bytes) -> list[tuple[bytes, bytes | None]]:
    """Alias rows to write with the first step of a lead that counts from now on: all identifiers lead to its row."""
    aliases = person.aliases if len(person.aliases) <= MOST_IDENTIFIERS else own
    return _written(aliases, (row,))


def linked(person: Person, alias: Alias) -> list[tuple[bytes, bytes | None]]:
    """Alias rows to write for a duplicate that brings identifiers together; none where it brings nothing new."""
    if not person.rows or len(person.aliases) > MOST_IDENTIFIERS:
        return []
    written = _written(person.aliases, person.rows)
    return written if any(alias(key) != value for key, value in written) else []


def rows_of(value: bytes) -> list[bytes]:
    """The keys of rows in the value of an alias row."""
    return [word for word in value.split() if word.startswith(b"d/")]


def identifiers_of(key: bytes, value: bytes) -> list[str]:
    """All identifiers that an alias row names: its own and the others."""
    return [hash_of(key), *(word.decode("utf-8", "replace") for word in value.split() if not word.startswith(b"d/"))]


def hash_of(key: bytes) -> str:
    """The identifier of an alias key."""
    return key.rpartition(b"/")[2].decode("utf-8", "replace")


def _written(aliases: tuple[bytes, ...], rows: tuple[bytes, ...]) -> list[tuple[bytes, bytes | None]]:
    """In one order, whichever of the leads comes first, so that equal values are equal bytes."""
    hashes = sorted(key.rpartition(b"/")[2] for key in aliases)
    begin = b" ".join(sorted(rows))
    return [(key, b" ".join((begin, *(each for each in hashes if not key.endswith(each))))) for key in aliases]
