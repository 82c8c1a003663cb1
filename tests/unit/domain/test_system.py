"""What a process checks as it starts: how its namespace began, and its clock against Kafka's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.model.pseudonyms import Pseudonyms, fingerprint, pseudonyms_of, use
from stream_app.domain.model.system import SYSTEM_KEY, SYSTEM_VERSION, system_problem, system_row
from stream_app.kafka.clock import in_words, skew_ms

ONE = "pepper-of-this-namespace-0123456"
OTHER = "pepper-of-another-namespace-0123"


NO_VERSION = SYSTEM_KEY, b'{"partitions":8,"pepper":null,"hash_lead_ids":false}'


def begin(pepper: str | None, partitions: int = 8) -> bytes:
    """The row of a namespace that begins with this pepper."""
    use(pseudonyms_of(pepper, hash_lead_ids=False))
    return system_row(partitions)


@pytest.mark.parametrize("pepper", [None, ONE])
def test_the_settings_that_a_namespace_began_with_are_taken(pepper: str | None) -> None:
    assert system_problem(SYSTEM_KEY, begin(pepper), 8) == ""


def test_another_number_of_partitions_is_refused() -> None:
    problem = system_problem(SYSTEM_KEY, begin(None), 16)
    assert problem.startswith(
        "kafka.partitions = 16, and this namespace began with 8: a system keeps the number",
    )


@pytest.mark.parametrize(
    ("before", "now", "what"),
    [
        (
            None,
            ONE,
            (
                "privacy.pepper_env is set, and this namespace began without a pepper: remove "
                "it, or take a new"
            ),
        ),
        (
            ONE,
            None,
            (
                "privacy.pepper_env is not set, and this namespace began with a pepper: set it, "
                "or take a new"
            ),
        ),
        (
            ONE,
            OTHER,
            (
                "the pepper of privacy.pepper_env is not the one that this namespace began with: "
                "set that, or"
            ),
        ),
    ],
)
def test_another_pepper_is_refused(before: str | None, now: str | None, what: str) -> None:
    row = begin(before)
    use(pseudonyms_of(now, hash_lead_ids=False))
    assert system_problem(SYSTEM_KEY, row, 8).startswith(what)


@pytest.mark.parametrize(
    ("began", "what"),
    [(True, "true: set that, or take a new"), (False, "false: set that, or take")],
)
def test_another_form_of_lead_ids_is_refused(began: bool, what: str) -> None:
    use(pseudonyms_of(ONE, hash_lead_ids=began))
    row = system_row(8)
    assert system_problem(SYSTEM_KEY, row, 8) == ""
    use(pseudonyms_of(ONE, hash_lead_ids=not began))
    problem = system_problem(SYSTEM_KEY, row, 8)
    assert f"this namespace began with {what}" in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"l/acme", b"{}"), (b"k/c1", None), (SYSTEM_KEY, None), (None, None), NO_VERSION],
)
def test_rows_without_the_row_of_the_system_are_of_an_earlier_build(
    key: bytes | None,
    value: bytes | None,
) -> None:
    problem = system_problem(key, value, 8)
    assert "written by an earlier build" in problem
    assert "drain it with that build, or take a new kafka.namespace" in problem


def test_a_row_that_cannot_be_read_is_named() -> None:
    assert system_problem(SYSTEM_KEY, b"{", 8).startswith("its row n/system cannot be read")


@pytest.mark.parametrize("more", ["", ',"partitions":"eight","pepper":{"now":1}'])
def test_a_row_of_a_later_build_is_refused_by_its_version(more: str) -> None:
    """Whatever else that build has changed in the row."""
    problem = system_problem(
        SYSTEM_KEY,
        b'{"version":%d%s}' % (SYSTEM_VERSION + 1, more.encode()),
        8,
    )
    assert problem == (
        f"its row n/system has version {SYSTEM_VERSION + 1}, and this program reads up to "
        f"{SYSTEM_VERSION}: "
        "run the later version that began this namespace, or take a new kafka.namespace"
    )


def test_fields_that_a_later_build_adds_to_the_row_are_ignored() -> None:
    later = begin(None)[:-1] + b',"later":1}'
    assert system_problem(SYSTEM_KEY, later, 8) == ""


def test_every_problem_is_one_line_and_names_no_pepper() -> None:
    row = begin(ONE)
    assert ONE.encode() not in row
    use(pseudonyms_of(OTHER, hash_lead_ids=False))
    problems = [
        system_problem(*record, 8)
        for record in ((SYSTEM_KEY, row), (SYSTEM_KEY, b"{"), (b"l/acme", b""))
    ]
    assert not [problem for problem in problems if "\n" in problem or OTHER in problem]


def test_a_fingerprint_tells_peppers_apart_and_is_not_their_key() -> None:
    use(Pseudonyms())
    assert fingerprint() is None
    seen = set()
    for pepper in (ONE, OTHER):
        use(pseudonyms := pseudonyms_of(pepper, hash_lead_ids=False))
        seen.add(mark := fingerprint())
        assert mark is not None
        assert mark not in (pepper, pseudonyms.key.hex())
    assert len(seen) == 2


HOUR_MS = 3_600_000
delays = st.integers(0, 600_000)


@given(st.integers(-10 * HOUR_MS, 10 * HOUR_MS), delays, delays)
def test_the_reported_skew_never_exceeds_the_real_one(
    ahead_ms: int,
    there_ms: int,
    back_ms: int,
) -> None:
    """However long request and answer take: a frozen process, a slow broker."""
    kafka_ms = 1_790_000_000_000
    sent_ms = kafka_ms - there_ms + ahead_ms
    heard_ms = kafka_ms + back_ms + ahead_ms
    skew = skew_ms(kafka_ms, sent_ms, heard_ms)
    assert skew == 0 or (skew > 0) == (ahead_ms > 0)
    assert abs(skew) <= abs(ahead_ms)
    assert abs(skew) >= abs(ahead_ms) - max(there_ms, back_ms)


@pytest.mark.parametrize(
    ("ahead_ms", "off"),
    [(-29_999, ""), (30_000, "30 s ahead of"), (-HOUR_MS, "60 min behind")],
)
def test_a_skew_is_reported_from_30_seconds_on(ahead_ms: int, off: str) -> None:
    assert in_words(ahead_ms) == (
        f"this machine's clock is {off} Kafka's: set it right (NTP)" if off else ""
    )
