"""What is remembered of results: fields with where and when each was found, for a person, and for a company.

A person's entry answers for that person; a company's entry holds only what is the same for everybody of one domain, and
completes what is known of a person. Neither is ever the truth: it may be gone at any time. Keys are hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from stream_app.domain.lane.bounds import out_of_order, out_of_range
from stream_app.domain.lead.lead import company, hashes
from stream_app.domain.lead.person import strong
from stream_app.domain.lead.pseudonyms import plain_digest
from stream_app.domain.messages import FieldOrigin, Result, Scalar

DAY_MS: Final = 86_400_000
MOST_FIELDS: Final = 256
MOST_VALUE_BYTES: Final = 8_192
"""What an ordinary cell of a Clay table may hold (clay-facts, inbound)."""

MOST_ENTRY_BYTES: Final = 65_536

Freshness = Literal["fresh", "stale", "none"]


class CachePolicy(msgspec.Struct, frozen=True):
    """How long a field counts: as good as new, and as better than nothing.

    company_fields  what is the same for all people of a company; so is what begins with `company_`.
    """

    freshness_days: float = 30.0
    stale_days: float = 180.0
    company_fields: tuple[str, ...] = (
        "domain",
        "website",
        "industry",
        "employee_count",
        "headcount",
        "revenue",
        "funding",
        "founded_year",
        "headquarters",
    )

    def is_of_company(self, name: str) -> bool:
        """Whether a field says something of the company, not of the person."""
        return name.startswith("company_") or name in self.company_fields


def problems(policy: CachePolicy) -> list[str]:
    """What is wrong with it, one line a key."""
    return out_of_range(policy, freshness_days=(0.01, 365), stale_days=(0.01, 3_650)) + out_of_order(
        policy, "freshness_days", "stale_days"
    )


class Field(msgspec.Struct, frozen=True, array_like=True):
    """A value that Clay found, when (epoch ms), and which destination it was found for."""

    value: Scalar
    at_ms: int
    source: str


class Entry(msgspec.Struct, frozen=True):
    """What is remembered of one person or company, by field."""

    fields: dict[str, Field] = {}


NOTHING: Final = Entry()


class Found(msgspec.Struct, frozen=True):
    """An answer for one lead. `age_s`: of the oldest field that is the person's own."""

    source: Literal["cache", "stale"]
    age_s: int
    fields: dict[str, Scalar]
    provenance: dict[str, FieldOrigin]


# ------------------------------------------------------------------------------------------------------------- keys


def person_slot(workspace: str, destination: str, person: str) -> str:
    """Key of a person's entry (a hash of core.lead.people). The workspace is a hash tag: one slot of a cluster."""
    return f"{{{workspace}}}:person:{plain_digest('cached', destination, person)}"


def company_slot(workspace: str, company: str) -> str:
    """Key of a company's entry (a hash of core.lead.company)."""
    return f"{{{workspace}}}:company:{company}"


def slots_of(result: Result) -> tuple[list[str], str | None]:
    """The keys that a result is remembered under: of all that its person is known by, and of its company.

    By a name only where the lead had nothing better: two of one name may work at one company.
    """
    names = dict.fromkeys([*filter(None, [result.person]), *strong(result.people), *strong(hashes(result.fields))])
    persons = [person_slot(result.workspace, result.destination, name) for name in names]
    firm = result.company or company(result.fields)
    return persons, company_slot(result.workspace, firm) if firm else None


# ---------------------------------------------------------------------------------------------------- remember, merge


def entry_of(result: Result) -> Entry:
    """What a result says anew. What was answered from here keeps the age it had; what is only local is nothing."""
    if result.source == "local":
        return NOTHING
    at_ms = result.at_ms - result.age_s * 1000
    found: dict[str, Field] = {}
    for name, value in result.fields.items():
        if value is None or value == "" or (isinstance(value, str) and len(value.encode()) > MOST_VALUE_BYTES):
            continue
        if result.source == "clay":
            found[name] = Field(value, at_ms, result.destination)
        elif (origin := result.provenance.get(name)) is not None and not origin.shared:
            found[name] = Field(value, origin.at_ms, origin.source)
    return bounded(Entry(found))


def of_company(policy: CachePolicy, entry: Entry) -> Entry:
    """The part of a person's entry that is the same for the whole company."""
    return Entry({name: field for name, field in entry.fields.items() if policy.is_of_company(name)})


def merge(one: Entry, other: Entry) -> Entry:
    """Of each field the newest. In whatever order entries come, and however often, the outcome is the same."""
    fields = dict(one.fields)
    for name, field in other.fields.items():
        mine = fields.get(name)
        if mine is None or _rank(field) > _rank(mine):
            fields[name] = field
    return Entry(fields)


def bounded(entry: Entry) -> Entry:
    """An entry that a cache can hold: of too many fields the newest, of too much the smallest."""
    if len(entry.fields) <= MOST_FIELDS and len(encode(entry)) <= MOST_ENTRY_BYTES:
        return entry
    newest = sorted(entry.fields.items(), key=lambda each: (-each[1].at_ms, each[0]))[:MOST_FIELDS]
    kept: dict[str, Field] = {}
    left = MOST_ENTRY_BYTES - len(encode(NOTHING))
    for name, field in sorted(newest, key=lambda each: (len(_json.encode(each[1])), each[0])):
        left -= len(_json.encode({name: field}))
        if left < 0:
            break
        kept[name] = field
    return Entry(kept)


def _rank(field: Field) -> tuple[int, str, bytes]:
    return field.at_ms, field.source, _json.encode(field.value)


# ------------------------------------------------------------------------------------------------------------- answer


def freshness(policy: CachePolicy, at_ms: int, now_ms: int) -> Freshness:
    """What a field of that time is worth now; one from the future (a clock stepped) is as good as new."""
    age_ms = now_ms - at_ms
    if age_ms <= policy.freshness_days * DAY_MS:
        return "fresh"
    return "stale" if age_ms <= policy.stale_days * DAY_MS else "none"


def answer(policy: CachePolicy, person: Entry, company: Entry, now_ms: int) -> Found | None:
    """What may be served for a person: fresh as soon as anything fresh is known of him, and then nothing that is not.

    What only his company is known for is no answer for him.
    """
    worth = {name: freshness(policy, field.at_ms, now_ms) for name, field in person.fields.items()}
    own = [value for name, value in worth.items() if not policy.is_of_company(name)]
    if "fresh" not in own and "stale" not in own:
        return None
    source: Literal["cache", "stale"] = "cache" if "fresh" in own else "stale"
    wanted = ("fresh",) if source == "cache" else ("fresh", "stale")
    kept = Entry({name: field for name, field in person.fields.items() if worth[name] in wanted})
    of_him = [field.at_ms for name, field in kept.fields.items() if not policy.is_of_company(name)]
    fields, provenance = shown(kept, shared(policy, kept, company, now_ms))
    return Found(source, max(0, now_ms - min(of_him)) // 1000, fields, provenance)


def shared(policy: CachePolicy, person: Entry, company: Entry, now_ms: int) -> Entry:
    """What the company's entry adds to a person's: fields that he has not, or has older, as far as they are fresh."""
    return Entry(
        {
            name: field
            for name, field in company.fields.items()
            if policy.is_of_company(name)
            and freshness(policy, field.at_ms, now_ms) == "fresh"
            and (name not in person.fields or field.at_ms > person.fields[name].at_ms)
        }
    )


def shown(own: Entry, of_company: Entry) -> tuple[dict[str, Scalar], dict[str, FieldOrigin]]:
    """Values and where they come from, as a result has them; what is of the company wins."""
    fields: dict[str, Scalar] = {}
    provenance: dict[str, FieldOrigin] = {}
    for entry, is_shared in ((own, False), (of_company, True)):
        for name, field in entry.fields.items():
            fields[name] = field.value
            provenance[name] = FieldOrigin(field.source, field.at_ms, is_shared)
    return fields, provenance


# -------------------------------------------------------------------------------------------------------------- bytes

_json: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """An entry as a cache stores it."""
    return _json.encode(entry)


def decode(raw: bytes | None) -> Entry:
    """An entry from a cache; what is not there, or no entry of this version, is nothing."""
    if raw is None:
        return NOTHING
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING


def merged(values: Mapping[str, bytes | None], changes: Iterable[tuple[str, Entry]]) -> dict[str, bytes]:
    """What to write: each change merged into what is there under its key."""
    after = {slot: decode(raw) for slot, raw in values.items()}
    for slot, entry in changes:
        after[slot] = merge(after.get(slot, NOTHING), entry)
    return {slot: encode(bounded(entry)) for slot, entry in after.items() if entry.fields}
