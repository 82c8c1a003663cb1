"""What is remembered of results: merging in any order, freshness by field, what people of one
company share, bounds.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.cache.local_facts import local_facts
from stream_app.domain.cached_results import (
    DAY_MS,
    MAX_CACHED_FIELDS,
    MAX_ENTRY_BYTES,
    NOTHING_CACHED,
    CachedField,
    CacheEntry,
    answer,
    bounded,
    company_slot,
    decode,
    encode,
    entry_of,
    merge,
    merged,
    person_slot,
    slots_of,
)
from stream_app.domain.lead.identity import company, people
from stream_app.domain.model.messages import FieldOrigin, Result, Scalar
from stream_app.domain.plan import CachePolicy
from tests.support.narrow import present

NOW = 1_790_000_000_000
POLICY = CachePolicy(freshness_days=30, stale_days=180)

scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=20))
fields = st.builds(
    CachedField,
    scalars,
    st.integers(NOW - 400 * DAY_MS, NOW),
    st.sampled_from(["people", "crm"]),
)
entries = st.builds(
    CacheEntry,
    st.dictionaries(st.sampled_from(["email", "title", "phone", "industry"]), fields),
)


def result(**changes: object) -> Result:
    fresh = Result(
        lead_id="crm-1",
        workspace="acme",
        destination="people",
        source="clay",
        version=1,
        at_ms=NOW,
        age_s=0,
        fields={"title": "CEO", "industry": "bikes", "email": "ada@acme.example"},
        person="P" * 22,
        company="C" * 22,
    )
    return msgspec.structs.replace(fresh, **changes)


@given(entries, entries, entries)
def test_entries_merge_in_any_order(a: CacheEntry, b: CacheEntry, c: CacheEntry) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(merge(c, a), b)
    assert merge(a, b) == merge(b, a)
    assert merge(a, a) == a


@given(entries, entries, st.integers(NOW, NOW + 400 * DAY_MS))
def test_an_answer_contains_no_field_older_than_its_stated_age(
    person: CacheEntry,
    firm: CacheEntry,
    now_ms: int,
) -> None:
    served = answer(POLICY, person, firm, now_ms)
    own = {name: field for name, field in person.fields.items() if not POLICY.is_of_company(name)}
    youngest_ms = max((field.at_ms for field in own.values()), default=None)
    if youngest_ms is None or now_ms - youngest_ms > 180 * DAY_MS:
        assert served is None
        return
    assert served is not None
    assert served.source == ("cache" if now_ms - youngest_ms <= 30 * DAY_MS else "stale")
    limit_days = 30 if served.source == "cache" else 180
    assert served.fields.keys() == served.provenance.keys()
    for name, origin in served.provenance.items():
        age_ms = now_ms - origin.at_ms
        assert age_ms <= (30 if origin.shared else limit_days) * DAY_MS
        assert served.fields[name] == (firm if origin.shared else person).fields[name].value
        assert not origin.shared or POLICY.is_of_company(name)
        if not origin.shared and not POLICY.is_of_company(name):
            assert age_ms // 1000 <= served.age_s


def test_a_fresh_answer_contains_only_fresh_fields() -> None:
    person = CacheEntry(
        {
            "title": CachedField("CEO", NOW, "people"),
            "phone": CachedField("+49", NOW - 40 * DAY_MS, "people"),
        },
    )
    served = present(answer(POLICY, person, NOTHING_CACHED, NOW))
    assert served.source == "cache"
    assert served.fields == {"title": "CEO"}
    ahead = present(answer(POLICY, person, NOTHING_CACHED, NOW - 5_000))
    assert ahead.source == "cache", "the clock stepped back"
    assert ahead.age_s == 0, "the clock stepped back"


def test_a_company_completes_a_person_and_is_marked() -> None:
    person = CacheEntry(
        {
            "title": CachedField("CEO", NOW - DAY_MS, "people"),
            "industry": CachedField("cars", NOW - DAY_MS, "people"),
        },
    )
    firm = CacheEntry(
        {"industry": CachedField("bikes", NOW, "crm"), "title": CachedField("not his", NOW, "crm")},
    )
    served = present(answer(POLICY, person, firm, NOW))
    assert served.fields == {"title": "CEO", "industry": "bikes"}
    assert served.provenance["industry"] == FieldOrigin("crm", NOW, shared=True)
    assert served.provenance["title"] == FieldOrigin("people", NOW - DAY_MS)


def test_an_answer_from_the_cache_keeps_the_age_of_its_fields() -> None:
    served = result(
        source="stale",
        age_s=40 * 86_400,
        provenance={
            "title": FieldOrigin("people", NOW - 40 * DAY_MS),
            "industry": FieldOrigin("people", NOW - DAY_MS, shared=True),
        },
    )
    assert entry_of(served).fields == {"title": CachedField("CEO", NOW - 40 * DAY_MS, "people")}
    assert entry_of(result(source="local")) == NOTHING_CACHED


def test_a_result_is_stored_for_its_company() -> None:
    named = slots_of(result())
    derived = slots_of(result(company=""))
    assert named[1] == company_slot("acme", "C" * 22)
    assert derived[1] == company_slot("acme", company({"domain": "ACME.example"}))


def test_a_result_is_stored_by_every_identifier_and_by_the_name_if_there_is_none() -> None:
    name: dict[str, Scalar] = {"domain": "acme.example", "first_name": "Ada", "last_name": "King"}
    sure: dict[str, Scalar] = {
        "linkedin_url": "https://www.linkedin.com/in/ada",
        "email": "ada@home.example",
    }
    linkedin, email, by_name = people({**sure, **name})
    (by_email,) = people({"email": "ada@acme.example"})

    def slots(person: str, *hashes: str) -> list[str]:
        persons, _ = slots_of(
            result(person=person, people=hashes, fields={"email": "ada@acme.example", **name}),
        )
        return persons

    assert slots(linkedin, linkedin, email, by_name) == [
        person_slot("acme", "people", identifier) for identifier in (linkedin, email, by_email)
    ]
    assert slots(by_name) == [
        person_slot("acme", "people", identifier) for identifier in (by_name, by_email)
    ]


@given(st.emails(), st.sampled_from(["acme", "w-1"]))
def test_keys_contain_no_personal_data_and_share_one_slot_per_workspace(
    email: str,
    workspace: str,
) -> None:
    given: dict[str, Scalar] = {"email": email, "domain": "rossi.example"}
    persons, firm = slots_of(result(workspace=workspace, fields=given, company=""))
    for slot in [*persons, *filter(None, [firm])]:
        assert slot.startswith(f"{{{workspace}}}:")
        assert email.lower() not in slot.lower()
        assert "rossi" not in slot


@given(
    st.dictionaries(st.text(max_size=30), fields, max_size=20),
    st.integers(0, 400),
    st.integers(0, 9_000),
)
def test_an_entry_is_bounded(some: dict[str, CachedField], more: int, length: int) -> None:
    many = {f"f{n}": CachedField("x" * length, NOW - n, "people") for n in range(more)}
    kept = bounded(CacheEntry({**some, **many}))
    assert len(encode(kept)) <= MAX_ENTRY_BYTES
    assert len(kept.fields) <= MAX_CACHED_FIELDS
    assert bounded(kept) == kept
    assert decode(encode(kept)) == kept


def test_as_many_bytes_as_allowed_are_kept_and_of_more_the_smallest_values() -> None:
    one = CachedField("x" * 5_000, NOW, "people")
    size = len(encode(CacheEntry({"f10": one}))) - len(encode(NOTHING_CACHED)) + 2
    most = (MAX_ENTRY_BYTES - len(encode(NOTHING_CACHED))) // size
    many = {f"f{n}": one for n in range(10, 10 + most)}
    assert bounded(CacheEntry(many)) == CacheEntry(many)
    assert bounded(
        CacheEntry(many | {"f99": CachedField("x" * 6_000, NOW, "people")}),
    ) == CacheEntry(
        many,
    )
    assert bounded(
        CacheEntry(many | {"f" * 40: CachedField("x" * 4_000, NOW, "people")}),
    ) == CacheEntry(
        {"f" * 40: CachedField("x" * 4_000, NOW, "people")} | dict(list(many.items())[:-1]),
    )
    smaller = {
        "f09": CachedField(
            "x" * (4_998 + MAX_ENTRY_BYTES - len(encode(NOTHING_CACHED)) - most * size),
            NOW,
            "people",
        ),
    }
    full = smaller | dict(list(many.items())[:-1])
    assert bounded(
        CacheEntry(full | {"f99": CachedField("x" * 6_000, NOW, "people")}),
    ) == CacheEntry(
        full,
    ), "to the last byte"
    assert bounded(CacheEntry(many | {"f01": one})) == CacheEntry(
        {"f01": one} | dict(list(many.items())[:-1]),
    )


@given(st.binary(max_size=200))
def test_bytes_that_are_not_an_entry_decode_to_nothing(raw: bytes) -> None:
    assert isinstance(decode(raw), CacheEntry)


def test_empty_and_oversized_values_are_not_stored() -> None:
    assert entry_of(result(fields={"a": "", "b": None, "c": "x" * 8_193})) == NOTHING_CACHED
    assert list(entry_of(result(fields={"c": "x" * 8_192})).fields) == ["c"]


@given(entries, entries)
def test_a_write_contains_the_old_fields_and_the_new_ones(
    before: CacheEntry,
    new: CacheEntry,
) -> None:
    after = merged({"slot": encode(before)}, [("slot", new)])
    assert decode(after.get("slot")) == merge(before, new)


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        (
            {"email": "ada@mail.acme.co.uk"},
            {"domain": "acme.co.uk", "company_name": "acme", "country": "GB"},
        ),
        ({"domain": "acme.com"}, {"company_name": "acme"}),
        (
            {"domain": "acme.com", "phone": "+49 30 901820"},
            {"company_name": "acme", "country": "DE"},
        ),
        (
            {"domain": "acme.fr", "phone": "+49 30 901820"},
            {"company_name": "acme", "country": "DE"},
        ),
        ({"phone": "+1 416 555 0123"}, {"country": "CA"}),
        ({"domain": "xn--mller-kva.de"}, {"company_name": "müller", "country": "DE"}),
        ({"domain": "acme.de", "company_name": "ACME Ltd"}, {"country": "DE"}),
        ({"domain": "acme.de", "country": "Austria"}, {"company_name": "acme"}),
        # Nothing that could be wrong:
        ({"email": "ada@gmail.com"}, {}),
        ({"email": "ada@poczta.wp.pl", "phone": "+48 22 123 45 67"}, {"country": "PL"}),
        ({"domain": "acme.github.io"}, {}),
        ({"domain": "co.uk"}, {}),
        ({"domain": "acme.nosuchtld"}, {}),
        ({"domain": "xn--999999999.com"}, {"company_name": "xn--999999999"}),
        ({"domain": "xn--a.com"}, {"company_name": "xn--a"}),
        ({"domain": "acme.ai"}, {"company_name": "acme"}),
        ({"phone": "030 901820"}, {}),
        ({"phone": "+49 1"}, {}),
        ({"phone": "+800 1234 5678"}, {}),
        ({}, {}),
    ],
)
def test_which_facts_are_derived(fields: dict[str, Scalar], facts: dict[str, Scalar]) -> None:
    given_domain = {name: value for name, value in facts.items() if name not in fields}
    derived = {name: value for name, (value, _) in local_facts(fields).items()}
    assert derived == given_domain


@given(
    st.dictionaries(
        st.sampled_from(["email", "domain", "phone", "country"]),
        st.text() | st.integers() | st.none(),
    ),
)
def test_any_fields_give_an_answer(fields: dict[str, Scalar]) -> None:
    for name, (value, source) in local_facts(fields).items():
        assert fields.get(name) in (None, "")
        assert value
        assert source in ("domain", "phone", "tld")
