"""Who a lead is: its id, and hashes of its person and company. The rules are in docs/identity.md.

Each e-mail address and LinkedIn URL leads to all leads of the person: each identifier (a hash) has
an alias row per destination. Its value names the rows of the person's leads that count, and the
person's other identifiers. So one look-up of any identifier finds the whole person:

    p/acme/people/<hash of an e-mail>  ->  d/acme/people/<lead id> <hash of a LinkedIn URL>

A new lead first points each of its own identifiers to its row, so that it has no second lead while
it waits. Only when it is sent does it link them to one another: a producer may name any two people
in one lead, so a duplicate, which costs nothing, and a lead that is never sent do not make them one
person. A name with a company's domain identifies only a lead that has neither an e-mail nor a
LinkedIn URL. It is never linked to another identifier.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from stream_app.domain.lead.fields import clean_domain, clean_email, normalise
from stream_app.domain.model.messages import Lead, Scalar
from stream_app.domain.model.pseudonyms import current, digest

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HASHED_ID: Final = re.compile(r"[hp]-[A-Za-z0-9_-]{22}")
_MADE_ID: Final = re.compile(rf"{_HASHED_ID.pattern}|record:.*", re.DOTALL)
MAX_IDENTIFIERS: Final = 16
"""More identifiers than this belong to a shared address and not to a person: they are not linked.
"""

Alias = Callable[[bytes], bytes | None]  # returns the value of an alias row by its key


class Identity(msgspec.Struct, frozen=True):
    """The id of a lead and hashes of its person. It holds no personal data."""

    lead_id: str
    person: str | None  # the strongest hash of the person; None if only an id is known
    people: tuple[str, ...] = ()  # `hashes` of the person


def identify(lead: Lead, *, cleaned: bool = False) -> Identity | None:
    """Return the identity of a lead; None if nothing identifies it.

    The person is the first of linkedin_url, email, domain + first + last. The id is `given_id` of
    the given id, or derived from the person. An id that an export names is kept if it follows from
    these fields. `cleaned`: the fields are clean already, as `read_lead` returns them.
    """
    fields = lead.fields if cleaned else normalise(lead.fields)
    people = _digests(fields)
    linkedin, email, name = people
    person = linkedin or email or name or None
    lead_id = (lead.lead_id or "").strip()
    if not lead_id:
        return Identity(f"p-{person}", person, people) if person else None
    if person is None and not _says_something(lead.fields):
        return None
    if is_made_id(lead_id):
        strongest = [
            value
            for value in (fields.get("linkedin_url"), fields.get("email"))
            if isinstance(value, str)
        ]
        made = [f"p-{known}" for known in people if known] + [
            f"h-{digest('id', value)}" for value in strongest
        ]
        if lead_id in made:
            return Identity(lead_id, person, people)
    return Identity(given_id(lead_id), person, people)


def says_who(lead: Lead) -> bool:
    """Return True if `identify` would find an identity in cleaned fields.

    It costs a tenth of `identify`.
    """
    fields = lead.fields
    if fields.get("linkedin_url") or fields.get("email"):
        return True
    if lead.lead_id and lead.lead_id.strip() and _says_something(fields):
        return True
    return all(isinstance(fields.get(name), str) for name in ("domain", "first_name", "last_name"))


def _says_something(fields: Mapping[str, Scalar]) -> bool:
    return any(value not in (None, "") for value in fields.values())


def given_id(lead_id: str) -> str:
    """Return `plain_id` of an id that a producer gave.

    An id of one of our own forms is hashed as well.

    Otherwise anybody could compute the id of another person's lead, and write into the row of that
    lead.
    """
    return f"h-{digest('id', lead_id)}" if is_made_id(lead_id) else plain_id(lead_id)


def plain_id(lead_id: str) -> str:
    """Return the id for rows, keys and events. A second call changes nothing.

    It is a hash if the id may hold personal data (an address, a URL), is not valid as a key, or if
    every id is to be hashed. An operator's id may be one that rows have already.
    """
    may_stay = _HASHED_ID if current().hash_lead_ids else _PLAIN_ID
    return lead_id if may_stay.fullmatch(lead_id) else f"h-{digest('id', lead_id)}"


def is_made_id(lead_id: str) -> bool:
    """Return True if the id has one of our own forms, which no producer's id has in a row."""
    return _MADE_ID.fullmatch(lead_id) is not None


def is_of_person(lead_id: str) -> bool:
    """Return True if rows have this id because it was derived from a person.

    Every workspace has the same one.
    """
    return lead_id.startswith("p-") and is_made_id(lead_id)


def ids_meant(lead_id: str) -> tuple[str, ...]:
    """Return the ids that rows may have for an id that somebody looks for.

    It may be one of our ids, or one of a producer's.
    """
    return tuple(dict.fromkeys((plain_id(lead_id), given_id(lead_id))))


def row_id(lead_id: str) -> str:
    """Return the id of a command as rows have it. The command may already hold such an id."""
    return lead_id if is_plain_id(lead_id) else plain_id(lead_id)


def people(fields: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return all hashes that identify the person of these fields.

    The first one is the one of `identify`.
    """
    return tuple(filter(None, hashes(fields)))


def hashes(fields: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return the same hashes by kind: LinkedIn URL, e-mail, name with domain.

    One that is missing is ''. Only the first two are unique to a person: two people of one name may
    work at one company.
    """
    return _digests(normalise(fields))


def _digests(cleaned: Mapping[str, Scalar]) -> tuple[str, str, str]:
    linkedin = cleaned.get("linkedin_url")
    email = cleaned.get("email")
    domain = cleaned.get("domain")
    first = cleaned.get("first_name")
    last = cleaned.get("last_name")
    return (
        digest("linkedin", linkedin) if isinstance(linkedin, str) else "",
        digest("email", email) if isinstance(email, str) else "",
        digest("name", domain, first.casefold(), last.casefold())
        if isinstance(domain, str) and isinstance(first, str) and isinstance(last, str)
        else "",
    )


def company_domain(fields: Mapping[str, Scalar]) -> str:
    """Return the domain of the person's company.

    It is the given one; without one, that of the e-mail address unless it is free mail; else "".
    """
    given = fields.get("domain")
    email = fields.get("email")
    domain = clean_domain(given) if isinstance(given, str) else ""
    if not domain and isinstance(email, str):
        domain = clean_domain(clean_email(email).rpartition("@")[2])
    return domain


def company(fields: Mapping[str, Scalar]) -> str:
    """Return the hash of the company of these fields; "" if unknown."""
    domain = company_domain(fields)
    return digest("company", domain) if domain else ""


def is_plain_id(text: str) -> bool:
    """Return True if `identify` may have made this id.

    Such an id is valid as a key and is no address or URL.
    """
    return _PLAIN_ID.fullmatch(text) is not None


def strong(hashes: Sequence[str]) -> tuple[str, ...]:
    """Return the hashes that are unique to a person: of the LinkedIn URL and of the e-mail."""
    return tuple(filter(None, hashes[:2]))


def identifiers(hashes: Sequence[str]) -> tuple[str, ...]:
    """Return the hashes that link leads: the name only if there is no stronger identifier."""
    return strong(hashes) or tuple(filter(None, hashes[2:]))


def person_key(workspace: str, destination: str, identifier: str) -> bytes:
    """Return the key of the alias row of an identifier (a hash)."""
    return f"p/{workspace}/{destination}/{identifier}".encode()


class Person(msgspec.Struct, frozen=True, gc=False):
    """What is known of a lead's person."""

    # The keys of the alias rows of all identifiers, those of the lead itself first.
    aliases: tuple[bytes, ...] = ()
    rows: tuple[bytes, ...] = ()  # keys of the rows of the person's leads


def person_of(own: tuple[bytes, ...], alias: Alias) -> Person:
    """Return the person of a lead with these alias keys.

    If there are more identifiers than `MAX_IDENTIFIERS`, not all are looked up.
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
            elif (other := place + b"/" + word) not in aliases and len(aliases) <= MAX_IDENTIFIERS:
                aliases.append(other)
    return Person(tuple(aliases), tuple(rows))


def pointed(own: tuple[bytes, ...], row: bytes, alias: Alias) -> list[tuple[bytes, bytes]]:
    """Return the alias rows to write with the first step of a new lead.

    The lead's own identifiers lead to its row. What each of them was linked to before stays linked.
    """
    return [
        (
            key,
            b" ".join(
                [
                    row,
                    *(word for word in (alias(key) or b"").split() if not word.startswith(b"d/")),
                ],
            ),
        )
        for key in own
    ]


def linked(own: tuple[bytes, ...], row: bytes, alias: Alias) -> list[tuple[bytes, bytes]]:
    """Return the alias rows to write when a lead is sent.

    Its person's identifiers lead to one another and to its row. If they do so already, there are no
    rows to write.
    """
    aliases = person_of(own, alias).aliases
    if len(aliases) > MAX_IDENTIFIERS:
        aliases = own
    # In a fixed order, so that equal values are equal bytes whatever lead comes first.
    hashes = sorted([key.rpartition(b"/")[2] for key in aliases])
    written = [
        (key, b" ".join([row, *[other for other in hashes if not key.endswith(other)]]))
        for key in aliases
    ]
    return written if any(alias(key) != value for key, value in written) else []


def unlinked(value: bytes, row: bytes, hashes: Collection[str]) -> bytes | None:
    """Return the value of an alias row without a lead's row and these identifiers.

    It is None if no lead is left in the row.
    """
    gone = {row, *(name.encode() for name in hashes)}
    words = [word for word in value.split() if word not in gone]
    return b" ".join(words) if any(word.startswith(b"d/") for word in words) else None


def rows_of(value: bytes) -> list[bytes]:
    """Return the row keys in the value of an alias row."""
    return [word for word in value.split() if word.startswith(b"d/")]


def identifiers_of(key: bytes, value: bytes) -> list[str]:
    """Return all identifiers that an alias row names: its own and the others."""
    return [
        hash_of(key),
        *(word.decode("utf-8", "replace") for word in value.split() if not word.startswith(b"d/")),
    ]


def hash_of(key: bytes) -> str:
    """Return the identifier of an alias key."""
    return key.rpartition(b"/")[2].decode("utf-8", "replace")
