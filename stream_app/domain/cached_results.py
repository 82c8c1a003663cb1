"""Cached results: fields with origin and age, for a person and for a company.

A person's entry answers for that person. A company's entry holds only what is the same for everyone
at one domain, and completes a person's entry. Both are caches and may vanish at any time. Keys are
hashes. A tombstone on `leads.enriched` deletes a result, and names its person in headers, as
hashes.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from stream_app.domain.lead.identity import company, hashes, strong
from stream_app.domain.model import untrusted
from stream_app.domain.model.messages import FieldOrigin, Result, Scalar
from stream_app.domain.model.numbers import TimeMs
from stream_app.domain.model.pseudonyms import plain_digest
from stream_app.domain.model.records import Record
from stream_app.domain.plan import CachePolicy

DAY_MS: Final = 86_400_000
MAX_CACHED_FIELDS: Final = 256
# The largest usual cell of a Clay table (docs/reference/clay.md, "Inbound").
MAX_CACHED_VALUE_BYTES: Final = 8_192
MAX_ENTRY_BYTES: Final = 65_536

Freshness = Literal["fresh", "stale", "none"]
PEOPLE_HEADER: Final = "people"


class CachedField(msgspec.Struct, frozen=True, array_like=True):
    """A value that Clay found, when (epoch ms), and for which destination."""

    value: Scalar
    at_ms: TimeMs
    source: str


class CacheEntry(msgspec.Struct, frozen=True):
    """The cached fields of one person or company."""

    fields: dict[str, CachedField] = {}


NOTHING_CACHED: Final = CacheEntry()


class CacheHit(msgspec.Struct, frozen=True):
    """A cached answer for one lead. `age_s` is the age of the oldest field of the person's own."""

    source: Literal["cache", "stale"]
    age_s: int
    fields: dict[str, Scalar]
    provenance: dict[str, FieldOrigin]


def person_slot(workspace: str, destination: str, person: str) -> str:
    """Return the key of a person's entry.

    The workspace is a Redis hash tag: one slot of a cluster.
    """
    return f"{{{workspace}}}:person:{plain_digest('cached', destination, person)}"


def company_slot(workspace: str, company: str) -> str:
    """Return the key of a company's entry (a hash of `domain.lead.identity.company`)."""
    return f"{{{workspace}}}:company:{company}"


def slots_of(result: Result) -> tuple[list[str], str | None]:
    """Return the keys under which a result is cached.

    They are those of all identifiers of its person, and that of its company.
    A name counts only if the lead had nothing stronger: two people of one name may work at one
    company.
    """
    names = dict.fromkeys(
        [*filter(None, [result.person]), *strong(result.people), *strong(hashes(result.fields))],
    )
    persons = [person_slot(result.workspace, result.destination, name) for name in names]
    firm = result.company or company(result.fields)
    return persons, company_slot(result.workspace, firm) if firm else None


def entry_of(result: Result) -> CacheEntry:
    """Return the cacheable part of a result.

    Fields from the cache keep their age; a local result has none.
    """
    if result.source == "local":
        return NOTHING_CACHED
    fields: dict[str, CachedField] = {}
    for name, value in result.fields.items():
        if (
            value is None
            or value == ""
            or (isinstance(value, str) and len(value.encode()) > MAX_CACHED_VALUE_BYTES)
        ):
            continue
        if result.source == "clay":
            fields[name] = CachedField(value, result.at_ms, result.destination)
        elif (origin := result.provenance.get(name)) is not None and not origin.shared:
            fields[name] = CachedField(value, origin.at_ms, origin.source)
    return bounded(CacheEntry(fields))


def of_company(policy: CachePolicy, entry: CacheEntry) -> CacheEntry:
    """Return the part of a person's entry that is the same for the whole company."""
    return CacheEntry(
        {name: field for name, field in entry.fields.items() if policy.is_of_company(name)},
    )


def merge(one: CacheEntry, other: CacheEntry) -> CacheEntry:
    """Return the newest value of each field.

    The result does not depend on the order or repetition of entries.
    """
    fields = dict(one.fields)
    for name, field in other.fields.items():
        mine = fields.get(name)
        if mine is None or _rank(field) > _rank(mine):
            fields[name] = field
    return CacheEntry(fields)


def bounded(entry: CacheEntry) -> CacheEntry:
    """Return an entry within the limits.

    If it has too many fields, the newest stay; if it has too many bytes, the smallest stay.
    """
    if len(entry.fields) <= MAX_CACHED_FIELDS and len(encode(entry)) <= MAX_ENTRY_BYTES:
        return entry
    newest = sorted(entry.fields.items(), key=lambda item: (-item[1].at_ms, item[0]))[
        :MAX_CACHED_FIELDS
    ]
    kept: dict[str, CachedField] = {}
    left = MAX_ENTRY_BYTES - len(encode(NOTHING_CACHED))
    for name, field in sorted(newest, key=lambda item: (len(_json.encode(item[1])), item[0])):
        left -= len(_json.encode({name: field}))
        if left < 0:
            break
        kept[name] = field
    return CacheEntry(kept)


def _rank(field: CachedField) -> tuple[int, str, bytes]:
    return field.at_ms, field.source, _json.encode(field.value)


def freshness(policy: CachePolicy, at_ms: int, now_ms: int) -> Freshness:
    """Return how good a field of that time is now.

    A time in the future (a clock stepped) counts as fresh.
    """
    age_ms = now_ms - at_ms
    if age_ms <= policy.freshness_days * DAY_MS:
        return "fresh"
    return "stale" if age_ms <= policy.stale_days * DAY_MS else "none"


def answer(
    policy: CachePolicy,
    person: CacheEntry,
    company: CacheEntry,
    now_ms: int,
) -> CacheHit | None:
    """Return what may be served for a person.

    If any field of the person's own is fresh, it is the fresh fields only, else stale ones too.
    Company fields alone are no answer.
    """
    worth = {name: freshness(policy, field.at_ms, now_ms) for name, field in person.fields.items()}
    own = [value for name, value in worth.items() if not policy.is_of_company(name)]
    if "fresh" not in own and "stale" not in own:
        return None
    source: Literal["cache", "stale"] = "cache" if "fresh" in own else "stale"
    wanted = ("fresh",) if source == "cache" else ("fresh", "stale")
    kept = CacheEntry(
        {name: field for name, field in person.fields.items() if worth[name] in wanted},
    )
    of_him = [field.at_ms for name, field in kept.fields.items() if not policy.is_of_company(name)]
    fields, provenance = shown(kept, shared(policy, kept, company, now_ms))
    return CacheHit(source, max(0, now_ms - min(of_him)) // 1000, fields, provenance)


def shared(policy: CachePolicy, person: CacheEntry, company: CacheEntry, now_ms: int) -> CacheEntry:
    """Return what the company's entry adds to the person's.

    These are the fresh fields that the person lacks, or has with an older time.
    """
    return CacheEntry(
        {
            name: field
            for name, field in company.fields.items()
            if policy.is_of_company(name)
            and freshness(policy, field.at_ms, now_ms) == "fresh"
            and (name not in person.fields or field.at_ms > person.fields[name].at_ms)
        },
    )


def shown(
    own: CacheEntry,
    of_company: CacheEntry,
) -> tuple[dict[str, Scalar], dict[str, FieldOrigin]]:
    """Return values and origins as a result has them.

    A field of the company replaces one of the person.
    """
    fields: dict[str, Scalar] = {}
    provenance: dict[str, FieldOrigin] = {}
    for entry, is_shared in ((own, False), (of_company, True)):
        for name, field in entry.fields.items():
            fields[name] = field.value
            provenance[name] = FieldOrigin(field.source, field.at_ms, is_shared)
    return fields, provenance


_json: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(CacheEntry)


def encode(entry: CacheEntry) -> bytes:
    """Return an entry as a cache stores it."""
    return _json.encode(entry)


def decode(raw: bytes | None) -> CacheEntry:
    """Return an entry from a cache; an empty one if it is missing or of another version."""
    if raw is None:
        return NOTHING_CACHED
    try:
        return untrusted.decode(_decoder, raw)
    except ValueError:
        return NOTHING_CACHED


def merged(
    values: Mapping[str, bytes | None],
    changes: Iterable[tuple[str, CacheEntry]],
) -> dict[str, bytes]:
    """Return the values to write: each change merged into the present value of its key."""
    after = {slot: decode(raw) for slot, raw in values.items()}
    for slot, entry in changes:
        after[slot] = merge(after.get(slot, NOTHING_CACHED), entry)
    return {slot: encode(bounded(entry)) for slot, entry in after.items() if entry.fields}


def tombstone(
    topic: str,
    workspace: str,
    destination: str,
    lead_id: str,
    people: Iterable[str],
) -> Record:
    """Return a record that deletes a lead's result.

    It names `people`, the hashes of its person, for the caches.
    """
    headers = ((PEOPLE_HEADER, ",".join(people).encode()),)
    return Record(topic, f"{workspace}/{destination}/{lead_id}".encode(), None, headers)


def seal(topic: str, workspace: str) -> Record:
    """Return a tombstone of no lead.

    It makes the broker start a new segment, so that earlier ones are compacted.
    """
    return Record(topic, f"{workspace}//".encode(), None)


def erased_by(
    key: bytes | None,
    headers: Iterable[tuple[str, bytes | None]],
) -> tuple[str, str, list[str]] | None:
    """Return workspace, destination and people of a tombstone; None if it names no person."""
    people = (dict(headers).get(PEOPLE_HEADER) or b"").decode("utf-8", "replace")
    parts = (key or b"").decode("utf-8", "replace").split("/", 2)
    if len(parts) < 3 or not people:
        return None
    return parts[0], parts[1], people.split(",")
