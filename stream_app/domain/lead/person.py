"""Links the leads of one person: each e-mail address and LinkedIn URL leads to all leads of the person.

Each identifier (a hash) has an alias row per destination. Its value names the rows of the person's leads that count,
and the person's other identifiers. So one look-up of any identifier finds the whole person:

    p/acme/people/<hash of an e-mail>  ->  d/acme/people/<lead id> <hash of a LinkedIn URL>

A new lead first points each of its own identifiers to its row, so that it has no second lead while it waits. Only when
it is sent does it link them to one another: a producer may name any two people in one lead, so a duplicate, which costs
nothing, and a lead that is never sent do not make them one person. A name with a company's domain identifies only a
lead that has neither an e-mail nor a LinkedIn URL. It is never linked to another identifier.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

MOST_IDENTIFIERS: Final = 16
"""More identifiers than this belong to a shared address and not to a person: they are not linked."""

Alias = Callable[[bytes], bytes | None]
"""Returns the value of an alias row by its key."""


def strong(hashes: Sequence[str]) -> tuple[str, ...]:
    """Return those of `hashes` that are unique to a person: of the LinkedIn URL and of the e-mail."""
    return tuple(filter(None, hashes[:2]))


def identifiers(hashes: Sequence[str]) -> tuple[str, ...]:
    """Return those of `hashes` that link leads: the name only if there is no stronger one."""
    return strong(hashes) or tuple(filter(None, hashes[2:]))


def person_key(workspace: str, destination: str, identifier: str) -> bytes:
    """Return the key of the alias row of an identifier (a hash)."""
    return f"p/{workspace}/{destination}/{identifier}".encode()


class Person(msgspec.Struct, frozen=True, gc=False):
    """What is known of a lead's person.

    Attributes:
        aliases: Keys of the alias rows of all identifiers, those of the lead itself first.
        rows: Keys of the rows of the person's leads.
    """

    aliases: tuple[bytes, ...] = ()
    rows: tuple[bytes, ...] = ()


def person_of(own: tuple[bytes, ...], alias: Alias) -> Person:
    """Return the person of a lead with these alias keys.

    If there are more identifiers than `MOST_IDENTIFIERS`, not all are looked up.
    """
    aliases = list(own)
    rows: dict[bytes, None] = {}
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


def pointed(own: tuple[bytes, ...], row: bytes, alias: Alias) -> list[tuple[bytes, bytes]]:
    """Return the alias rows to write with the first step of a new lead: its own identifiers lead to its row.

    What each of them was linked to before stays linked.
    """
    return [
        (key, b" ".join([row, *(word for word in (alias(key) or b"").split() if not word.startswith(b"d/"))]))
        for key in own
    ]


def linked(own: tuple[bytes, ...], row: bytes, alias: Alias) -> list[tuple[bytes, bytes]]:
    """Return the alias rows to write when a lead is sent: its person's identifiers lead to one another and to its row.

    [] if they do already.
    """
    aliases = person_of(own, alias).aliases
    if len(aliases) > MOST_IDENTIFIERS:
        aliases = own
    written = _written(aliases, row)
    return written if any(alias(key) != value for key, value in written) else []


def unlinked(value: bytes, row: bytes, hashes: Collection[str]) -> bytes | None:
    """Return the value of an alias row without a lead's row and these identifiers; None if no lead is left in it."""
    gone = {row, *(each.encode() for each in hashes)}
    words = [word for word in value.split() if word not in gone]
    return b" ".join(words) if any(word.startswith(b"d/") for word in words) else None


def rows_of(value: bytes) -> list[bytes]:
    """Return the row keys in the value of an alias row."""
    return [word for word in value.split() if word.startswith(b"d/")]


def identifiers_of(key: bytes, value: bytes) -> list[str]:
    """Return all identifiers that an alias row names: its own and the others."""
    return [hash_of(key), *(word.decode("utf-8", "replace") for word in value.split() if not word.startswith(b"d/"))]


def hash_of(key: bytes) -> str:
    """Return the identifier of an alias key."""
    return key.rpartition(b"/")[2].decode("utf-8", "replace")


def _written(aliases: tuple[bytes, ...], row: bytes) -> list[tuple[bytes, bytes]]:
    """Return the rows in a fixed order, independent of the order of leads, so that equal values are equal bytes."""
    hashes = sorted([key.rpartition(b"/")[2] for key in aliases])
    return [(key, b" ".join([row, *[each for each in hashes if not key.endswith(each)]])) for key in aliases]
