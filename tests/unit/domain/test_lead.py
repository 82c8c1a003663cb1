"""Reading, cleaning and identifying leads. Any bytes give an answer."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_app.domain.lead.fields import FREE_MAIL, clean_email, normalise
from stream_app.domain.lead.identity import Identity, company, identify, people
from stream_app.domain.lead.read import (
    MAX_CELL_BYTES,
    MAX_IMPORT_ID_CHARACTERS,
    MAX_LEAD_BYTES,
    Unreadable,
    clay_row,
    import_id_in,
    import_of,
    read_lead,
)
from stream_app.domain.model.messages import Lead, Scalar
from stream_app.domain.model.pseudonyms import pseudonyms_of, use
from stream_app.domain.model.records import murmur2
from stream_app.domain.model.topics import home_partition
from tests.support.narrow import of_type, present

BIG = b"9" * 30
GOOD = b'{"fields":{"email":"jane@acme.example"}}'


def reason(value: bytes | None, key: bytes | None = b"acme") -> str:
    answer = of_type(Unreadable, read_lead(value, key))
    assert answer.text
    return answer.reason


def lead(value: bytes, key: bytes | None = b"acme") -> Lead:
    return of_type(Lead, read_lead(value, key))


def identity(fields: dict[str, Any], lead_id: str | None = None) -> Identity:
    return present(identify(Lead(fields=dict(fields), lead_id=lead_id)))


@pytest.mark.parametrize(
    ("import_id", "is_shown"),
    [
        ("", False),
        ("m", True),
        ("m" * MAX_IMPORT_ID_CHARACTERS, True),
        ("m" * (MAX_IMPORT_ID_CHARACTERS + 1), False),
        ("ada@acme.example", False),
    ],
)
def test_an_event_names_an_import_that_is_short_and_no_address(
    import_id: str,
    is_shown: bool,
) -> None:
    assert import_of(Lead(fields={}, import_id=import_id)) == (import_id if is_shown else "", None)


@pytest.mark.parametrize(
    ("field", "largest", "refused"),
    [
        (lambda n: f'{{"lead_id":"x","fields":{{"n":{n}}}}}', 2**64 - 1, "number_out_of_range"),
        (lambda n: f'{{"lead_id":"x","fields":{{"n":{-n}}}}}', 2**63, "number_out_of_range"),
        (
            lambda n: f'{{"lead_id":"x","not_after_ms":{n},"fields":{{"n":1}}}}',
            2**64 - 1,
            "number_out_of_range",
        ),
        (
            lambda n: f'{{"lead_id":"x","workspace":"{"w" * n}","fields":{{"n":1}}}}',
            64,
            "bad_workspace",
        ),
    ],
)
def test_the_largest_is_read_and_one_more_is_not(
    field: Callable[[int], str],
    largest: int,
    refused: str,
) -> None:
    assert isinstance(read_lead(field(largest).encode(), b"acme"), Lead)
    assert reason(field(largest + 1).encode()) == refused


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        (None, b"acme", "tombstone"),
        (b"", b"acme", "empty"),
        (b"\xff\xfe", b"acme", "not_json"),
        (b'{"fields":{"email":"\xff"}}', b"acme", "not_utf8"),
        (b'{"fields":{"a":1}', b"acme", "not_json"),
        (b'{"fields":{"a":NaN},"lead_id":"x"}', b"acme", "not_json"),
        (b'{"fields":{"a":1e999},"lead_id":"x"}', b"acme", "not_json"),
        (b'{"fields":{"a":"\\ud800"},"lead_id":"x"}', b"acme", "not_json"),
        (b'[{"fields":{}}]', b"acme", "not_an_object"),
        (b'"text"', b"acme", "not_an_object"),
        (b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", b"acme", "nested_too_deep"),
        (b"x" * 1_000_000, b"acme", "oversize"),
        (b"{}", b"acme", "invalid_lead"),
        (b'{"fields":[]}', b"acme", "invalid_lead"),
        (b'{"fields":{"a":{"b":1}},"lead_id":"x"}', b"acme", "invalid_lead"),
        (b'{"fields":{"a":[1]},"lead_id":"x"}', b"acme", "invalid_lead"),
        (b'{"fields":{"a":1},"lead_id":7}', b"acme", "invalid_lead"),
        (b'{"fields":{"a":1},"lead_id":"x","not_after_ms":"soon"}', b"acme", "invalid_lead"),
        (b'{"fields":{"a":1e3},"lead_id":"x","force":"maybe"}', b"acme", "invalid_lead"),
        (b'{"fields":{"a":' + BIG + b'},"lead_id":"x"}', b"acme", "number_out_of_range"),
        (
            b'{"fields":{"a":1},"lead_id":"x","not_after_ms":' + BIG + b"}",
            b"acme",
            "number_out_of_range",
        ),
        (GOOD, None, "no_workspace"),
        (GOOD, b"", "no_workspace"),
        (GOOD, b"\xff", "bad_workspace"),
        (GOOD, b"two words", "bad_workspace"),
        (GOOD, b"w" * 65, "bad_workspace"),
        (b'{"fields":{}}', b"acme", "no_identity"),
        (b'{"fields":{},"lead_id":"x"}', b"acme", "no_identity"),
        (b'{"fields":{"email":"n/a"}}', b"acme", "no_identity"),
        (b'{"fields":{"domain":"acme.example","first_name":"Jane"}}', b"acme", "no_identity"),
        (
            b'{"fields":{"domain":"gmail.com","first_name":"J","last_name":"D"}}',
            b"acme",
            "no_identity",
        ),
    ],
)
def test_bytes_that_are_no_lead_have_a_reason(
    value: bytes | None,
    key: bytes | None,
    expected: str,
) -> None:
    assert reason(value, key) == expected


def test_the_size_limit_is_exact() -> None:
    fits = GOOD + b" " * (MAX_LEAD_BYTES - len(GOOD))
    lead(fits)
    assert reason(fits + b" ") == "oversize"


def test_harmless_deviations_are_accepted() -> None:
    read = lead(
        b'{"fields":{"a":"1"},"lead_id":"x","lead_id":"y","not_after_ms":"1700000000000","new":{"deep":[]}}',
    )
    assert read.lead_id == "y"
    assert read.not_after_ms == 1_700_000_000_000
    assert read.fields == {"a": "1"}


def test_the_workspace_of_the_body_wins_over_the_key() -> None:
    assert lead(GOOD).workspace == "acme"
    assert lead(b'{"workspace":"beta","fields":{"email":"a@b.example"}}').workspace == "beta"
    assert lead(b'{"workspace":"","fields":{"email":"a@b.example"}}').workspace == "acme"


def test_a_reason_never_repeats_the_input() -> None:
    for value in (
        b'{"fields":{"secretname":{"a":1}},"lead_id":"secretid"}',
        b'{"fields":{"a":1},"lead_id":"x","force":"secretforce"}',
        b'{"fields":{"a":1},"not_after_ms":"secretdate"}',
        b'{"fields":{"email":"secret"}}',
    ):
        answer = of_type(Unreadable, read_lead(value, b"secret workspace"))
        assert "secret" not in answer.text + answer.reason


# The first text that hypothesis draws on a machine builds its table of characters, which takes
# seconds.
patient = settings(suppress_health_check=[HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = ("fields", "lead_id", "workspace", "destination", "not_after_ms", "force")
FIELD_NAMES = ("email", "domain", "linkedin_url", "first_name", "last_name", "phone", "notes")


@given(st.binary(max_size=200) | st.none(), st.binary(max_size=8) | st.none())
def test_any_bytes_give_a_lead_or_a_reason(value: bytes | None, key: bytes | None) -> None:
    assert isinstance(read_lead(value, key), Lead | Unreadable)


SUMMARIES = JSON | st.just({"file": "a.csv", "rows": 3, "refused": {}, "published": 2})
DOCUMENTS = st.fixed_dictionaries(
    {"fields": st.just({"email": "ada@acme.example"}) | JSON},
    optional={"import_id": st.text(max_size=4) | JSON, "import_summary": SUMMARIES},
)


@patient
@given(DOCUMENTS.map(json.dumps).map(str.encode) | st.binary(max_size=50))
def test_a_dead_letter_belongs_to_the_import_that_its_first_event_names(value: bytes) -> None:
    assert import_id_in(value) == import_of(read_lead(value, b"acme"))[0]


@pytest.mark.parametrize(
    ("value", "import_id"),
    [
        (b'{"fields": {"email": "ada@acme.example"}, "import_id": "tuesday"}', "tuesday"),
        (b'{"fields": {"notes": "no identity"}, "import_id": "tuesday"}', "tuesday"),
        (b'{"fields": 3, "import_id": "tuesday"}', "tuesday"),
        (b'{"fields": {"email": "ada@acme.example"}, "import_id": "a@b"}', ""),
        (b'{"import_id": "tuesday", "fields": {', ""),
        (b'"tuesday"', ""),
        (None, ""),
    ],
)
def test_the_import_of_a_dead_letter_is_in_its_value(value: bytes | None, import_id: str) -> None:
    assert import_id_in(value) == import_id
    assert import_of(read_lead(value, b"acme"))[0] == import_id


@patient
@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_json_gives_a_lead_or_a_reason_that_can_be_encoded(document: dict[str, object]) -> None:
    try:
        value = msgspec.json.encode(document)
    except (OverflowError, ValueError):  # whole numbers that JSON holds but msgspec does not write
        return
    answer = read_lead(value, b"acme")
    if isinstance(answer, Lead):
        msgspec.json.encode(answer)
        assert identify(answer) is not None


VALUES = st.sampled_from(
    [
        "ada@acme.example",
        "acme.example",
        "linkedin.com/in/ada",
        "gmail.com",
        "Ada",
        " ",
        "",
        7,
        None,
    ],
)


@patient
@given(st.dictionaries(st.sampled_from(FIELD_NAMES), VALUES), st.sampled_from(["crm-1", " ", None]))
def test_a_lead_is_read_if_and_only_if_it_has_an_identity(
    fields: dict[str, str],
    lead_id: str | None,
) -> None:
    answer = read_lead(msgspec.json.encode({"fields": fields, "lead_id": lead_id}), b"acme")
    known = identify(Lead(fields=normalise(fields), lead_id=lead_id)) is not None
    assert isinstance(answer, Lead) == known
    assert known or (isinstance(answer, Unreadable) and answer.reason == "no_identity")


@patient
@given(st.dictionaries(st.sampled_from(FIELD_NAMES), st.text() | st.integers() | st.none()))
def test_cleaning_is_idempotent_and_keeps_the_identity(fields: dict[str, str]) -> None:
    once = normalise(fields)
    assert normalise(once) == once
    assert identify(Lead(fields=once)) == identify(Lead(fields=dict(fields)))


@pytest.mark.parametrize(
    ("name", "raw", "clean"),
    [
        ("email", "  MAILTO:Jane.Doe@ACME.example?subject=Hi ", "jane.doe@acme.example"),
        ("email", "jane@acme.example\u200b", "jane@acme.example"),
        ("email", "u\u0308ber@acme.example", "über@acme.example"),
        ("email", "jane@bücher.example", "jane@xn--bcher-kva.example"),
        ("email", "jane@localhost", None),
        ("email", "a@b@c.example", None),
        ("domain", "HTTPS://www.Acme.example:8443/de?x=1#y", "acme.example"),
        ("domain", "acme.example.", "acme.example"),
        ("domain", "jane@acme.example", "acme.example"),
        ("domain", "Bücher.example", "xn--bcher-kva.example"),
        ("domain", "straße.example", "xn--strae-oqa.example"),
        ("domain", "münchen-süd.example", "xn--mnchen-sd-q9ah.example"),
        ("domain", "www.gmail.com", None),
        ("domain", "www.www.com", "www.com"),
        ("domain", "10.0.0.1", None),
        ("domain", "a..example", None),
        ("domain", "x" * 64 + ".example", None),
        ("linkedin_url", "linkedin.com/in/Jane-Doe/", "https://www.linkedin.com/in/jane-doe"),
        (
            "linkedin_url",
            "http://de.linkedin.com/in/jane-doe?trk=x#top",
            "https://www.linkedin.com/in/jane-doe",
        ),
        (
            "linkedin_url",
            "https://linkedin.com/in/j%C3%BCrgen",
            "https://www.linkedin.com/in/j%C3%BCrgen",
        ),
        (
            "linkedin_url",
            "https://linkedin.com/in/jürgen",
            "https://www.linkedin.com/in/j%C3%BCrgen",
        ),
        ("linkedin_url", "https://notlinkedin.com/in/jane", None),
        ("linkedin_url", "https://linkedin.com/company/acme", None),
        ("first_name", " Jose\u0301  Mari\u0301a\n", "José María"),
        ("phone", 15550100, 15550100),
        ("phone", "   ", None),
        ("notes", "  not changed ", "  not changed "),
    ],
)
def test_fields_are_cleaned(name: str, raw: str | int, clean: str | int | None) -> None:
    assert normalise({name: raw}) == ({} if clean is None else {name: clean})


def test_linkedin_is_the_first_identity() -> None:
    known = identity(
        {"linkedin_url": "HTTPS://LINKEDIN.com/in/Jane/?a=b", "email": "other@acme.example"},
    )
    plain = identity({"linkedin_url": "https://www.linkedin.com/in/jane"})
    assert known.lead_id == plain.lead_id
    assert known.person == plain.person
    assert known.people[0] == plain.people[0]


@pytest.mark.parametrize(
    "host",
    ["gmail.com", "yahoo.com.mx", "btinternet.com", "duck.com", "mailinator.com"],
)
def test_a_mail_provider_is_not_a_company(host: str) -> None:
    assert company({"email": f"ada@{host}"}) == ""
    assert company({"email": f"ada@mail.{host}"}) == ""
    assert company({"domain": host}) == ""
    assert (
        company({"email": f"ada@{host}", "domain": "acme.example"})
        == company({"email": "bo@acme.example"})
        != ""
    )
    assert company({"email": f"ada@not{host}"}) != ""


def test_each_domain_of_the_free_mail_file_is_spelled_as_a_cleaned_domain() -> None:
    assert [host for host in FREE_MAIL if clean_email(f"ada@{host}") != f"ada@{host}"] == []


def test_lead_ids_are_derived_from_the_identity() -> None:
    fields: dict[str, Scalar] = {"email": "jane@acme.example"}
    derived = identity(fields)
    assert derived.person is not None
    assert derived.lead_id == f"p-{derived.person}"
    assert len(derived.person) == 22
    assert identify(Lead(fields=fields, lead_id=" crm:42 ")) == Identity(
        "crm:42",
        derived.person,
        derived.people,
    )
    assert identify(Lead(fields={"notes": "x"}, lead_id="42")) == Identity("42", None, ("", "", ""))
    assert identify(Lead(fields={"notes": "x"})) is None
    assert identify(Lead(fields={"notes": None}, lead_id="42")) is None


@pytest.mark.parametrize(
    "given_id",
    ["jane@acme.example", "https://x.example/1", "two words", "x" * 129, "ü"],
)
def test_an_id_that_cannot_be_a_key_is_hashed(given_id: str) -> None:
    lead_id = identity({"notes": "x"}, given_id).lead_id
    assert lead_id[:2] == "h-"
    assert len(lead_id) == 24


@pytest.mark.parametrize("form", ["p-{}", "h-{}", "record:{}", "record:leads/0/17"])
@pytest.mark.parametrize("hashed", [False, True])
def test_an_id_of_our_own_form_that_does_not_follow_from_the_fields_is_hashed(
    form: str,
    hashed: bool,
) -> None:
    """A producer can compute another person's id, and would else write into the row of that
    person's lead.
    """
    use(pseudonyms_of("one" if hashed else None, hashed))
    (victim,) = people({"email": "victim@acme.example"})
    forged = form.format(victim)
    made = set[str]()
    for fields in ({"email": "other@acme.example"}, {"notes": victim}):
        lead = of_type(
            Lead,
            read_lead(msgspec.json.encode({"lead_id": f" {forged}", "fields": fields}), b"acme"),
        )
        who = present(identify(lead))
        made.add(who.lead_id)
        assert re.fullmatch("h-[A-Za-z0-9_-]{22}", who.lead_id)
    bad = of_type(
        Unreadable,
        read_lead(msgspec.json.encode({"lead_id": forged, "fields": {}}), b"acme"),
    )
    assert made == {bad.lead_id} != {forged}, (
        "nor does a record that is refused show in the history of that person's lead"
    )


@pytest.mark.parametrize("also", [{}, {"linkedin_url": "https://www.linkedin.com/in/jane"}])
def test_an_export_that_is_published_again_keeps_the_ids_that_follow_from_its_fields(
    also: dict[str, Scalar],
) -> None:
    """The identifier that an id was made from stays with the lead, although a stronger one may have
    joined it.
    """
    fields: dict[str, Scalar] = {"email": "jane@acme.example"}
    for made in (identity(fields).lead_id, identity(fields, "jane@acme.example").lead_id):
        assert identity({**fields, **also}, made).lead_id == made


@pytest.mark.parametrize(
    "given_id",
    ["p-17", "h-", "p-" + "x" * 21, "h-" + "x" * 23, "records:1", "x-" + "x" * 22],
)
def test_an_id_that_only_resembles_one_of_ours_stays(given_id: str) -> None:
    assert identity({"notes": "x"}, given_id).lead_id == given_id


@given(st.binary(max_size=40))
def test_murmur2_is_kafkas(key: bytes) -> None:
    assert murmur2(key) == aiokafka_murmur2(key)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), st.integers(1, 64))
def test_home_is_where_kafkas_partitioner_puts_the_key(workspace: str, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert home_partition(workspace, partitions, {}) == DefaultPartitioner()(
        workspace.encode(),
        everywhere,
        [],
    )
    assert home_partition(workspace, partitions, {workspace: 0}) == 0


def test_a_cell_has_at_most_so_many_bytes_and_an_empty_field_has_none() -> None:
    assert clay_row({"b": None, "a": "é" * (MAX_CELL_BYTES // 2)}, {}, {}) == {
        "a": "é" * (MAX_CELL_BYTES // 2),
    }
    assert isinstance(clay_row({"a": "é" * (MAX_CELL_BYTES // 2) + "x"}, {}, {}), Unreadable)
