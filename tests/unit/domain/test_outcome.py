"""The table of outcomes, status by status, and the scrubbing of foreign texts."""

import re
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
    WebhookCause,
    WebhookOut,
    classify,
    scrub,
)
from tests.support.narrow import of_type


def _classify(http_status: int, *, refused: bool = True, excerpt: str = "") -> Outcome:
    return classify(http_status, None, excerpt, 7, refused)


def _meaning(http_status: int) -> type:
    """The table of outcomes of docs/reference/clay.md, written a second time."""
    special: dict[int, type] = {429: RateLimited, 503: Refused}
    special |= dict.fromkeys((408, 500, 502, 504), Uncertain) | dict.fromkeys(
        (400, 413, 422),
        Poison,
    )
    special |= dict.fromkeys((403, 404), WebhookOut)
    by_hundred = {2: Accepted, 3: Denied, 4: Denied, 5: Uncertain}
    return special.get(http_status) or by_hundred.get(http_status // 100, Uncertain)


def test_every_http_status_has_its_outcome() -> None:
    outcomes = {status: _classify(status) for status in range(100, 1000)}
    assert {s: type(o) for s, o in outcomes.items()} == {s: _meaning(s) for s in outcomes}
    assert all(
        (o.http_status, o.reason, o.latency_ms) == (s, f"http_{s}", 7) for s, o in outcomes.items()
    )


def test_503_is_the_destinations_choice() -> None:
    assert isinstance(_classify(503, refused=False), Uncertain)


@pytest.mark.parametrize("retry_after", [None, "0", "7", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
def test_retry_after_is_passed_on_unchanged(retry_after: str | None) -> None:
    limited = classify(429, retry_after, "", 1, unavailable_is_refused=True)
    assert limited == RateLimited(429, 1, retry_after)
    assert (
        of_type(Refused, classify(503, retry_after, "", 1, unavailable_is_refused=True)).retry_after
        == retry_after
    )


@pytest.mark.parametrize(
    ("http_status", "words"),
    [
        (401, "token"),
        (402, "credits"),
        (300, "redirects"),
        (399, "redirects"),
        (499, "settings"),
    ],
)
def test_the_reason_of_a_suspension_says_what_to_do(http_status: int, words: str) -> None:
    outcome = of_type(Denied, _classify(http_status, excerpt="no way"))
    assert outcome.text.startswith(f"HTTP {http_status}: ")
    assert words in outcome.text
    assert "resume the lane" in outcome.text
    assert "Clay said: no way" in outcome.text


FULL = '{"message":"Record limit reached for webhook"}'


@pytest.mark.parametrize(
    ("http_status", "excerpt", "cause"),
    [
        (403, FULL, "full"),
        (403, FULL.upper(), "full"),
        (403, "Forbidden", "refused"),
        (403, "", "refused"),
        (404, FULL, "gone"),
        (404, "", "gone"),
    ],
)
def test_a_webhook_is_out_for_a_reason_that_clay_names(
    http_status: int,
    excerpt: str,
    cause: WebhookCause,
) -> None:
    outcome = of_type(WebhookOut, _classify(http_status, excerpt=excerpt))
    assert outcome.cause == cause
    assert outcome.text.startswith(f"HTTP {http_status}: ")
    assert ("Clay said: " in outcome.text) is bool(excerpt)
    assert excerpt.strip('{"}') in outcome.text


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (["Record", "limit", "webhook"], "full"),
        (["the record limit reached us"], "refused"),
    ],
)
def test_values_of_the_lead_neither_hide_nor_make_a_reason(
    sent: list[str],
    cause: WebhookCause,
) -> None:
    """An answer may echo them."""
    answer = f"Record limit reached for webhook. {sent[0]}" if cause == "full" else sent[0]
    outcome = of_type(WebhookOut, classify(403, None, answer, 1, True, known=sent))
    assert outcome.cause == cause


INACTIVE = '{"error":"Stream is not active"}'


@pytest.mark.parametrize(
    ("excerpt", "sent"),
    [
        (INACTIVE, []),
        (INACTIVE.upper(), []),
        (INACTIVE, ["active", "Stream", "not"]),
    ],
)
def test_a_workflow_that_is_paused_rejects_no_lead(excerpt: str, sent: list[str]) -> None:
    outcome = classify(400, None, excerpt, 7, True, known=sent, kind="workflow")
    assert of_type(WebhookOut, outcome).cause == "inactive"
    table = classify(400, None, excerpt, 7, True, known=sent)
    assert isinstance(table, Poison), "a table has no such answer"


@pytest.mark.parametrize(
    ("excerpt", "sent"),
    [
        ("Invalid JSON", []),
        ("", []),
        ("not valid: The Stream is not active.", ["the stream is not active."]),
    ],
)
def test_another_400_of_a_workflow_is_of_its_lead(excerpt: str, sent: list[str]) -> None:
    outcome = classify(400, None, excerpt, 7, True, known=sent, kind="workflow")
    assert isinstance(outcome, Poison)


def test_a_workflow_answers_as_a_table_otherwise() -> None:
    for http_status in set(range(100, 1000)) - {400}:
        table = classify(http_status, "7", "no", 1, unavailable_is_refused=True)
        assert classify(http_status, "7", "no", 1, True, kind="workflow") == table


@pytest.mark.parametrize(
    ("header", "excerpt", "retry_after"),
    [
        (None, '{"retryAfter":30}', "30"),
        (None, '{"error":"slow down","retryAfter":"12"}', "12"),
        (None, '{"retryAfter":1.5}', "1.5"),
        (None, '{"retryAfter":1234567}', "1234567"),
        ("7", '{"retryAfter":30}', "7"),
        (None, '{"retryAfter":null}', None),
        (None, '{"retryAfter":[3]}', None),
        (None, '{"retryAfter":30', None),
        (None, '{"retryAfter":"' + "9" * 100 + '"}', "9" * 64),
        (None, "\ud800", None),
        (None, '{"more":' + "[" * 4_000, None),
        (None, '{"more":' + "[" * 1_900 + "]" * 1_900 + ',"retryAfter":30}', None),
        (None, "", None),
    ],
)
def test_a_429_may_say_in_its_body_when_to_come_back(
    header: str | None,
    excerpt: str,
    retry_after: str | None,
) -> None:
    outcome = classify(429, header, excerpt, 1, True, kind="workflow")
    assert outcome == RateLimited(429, 1, retry_after)


@pytest.mark.parametrize("http_status", [400, 413, 422])
def test_a_bad_row_is_told_with_the_words_of_clay(http_status: int) -> None:
    """Clay documents a 400 alone, for bad JSON as for more than 100 KB."""
    outcome = of_type(Poison, _classify(http_status, excerpt="Payload too large"))
    assert outcome.text.startswith(f"HTTP {http_status}: ")
    assert outcome.text.endswith("(Clay said: Payload too large)")
    assert ("100 KB" in outcome.text) is (http_status == 400)


def test_values_that_were_sent_are_scrubbed_from_excerpts() -> None:
    for http_status in (400, 403, 500, 503):
        outcome = classify(http_status, None, "no Ada at bob@example.com", 1, True, known=["Ada"])
        assert "Ada" not in repr(outcome)
        assert "[sent] at [email]" in repr(outcome)


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("", ""),
        ("1" * 6 + " is short, 1(2)[3]4/5-6.7 is not", "111111 is short, [number] is not"),
        ("Too many  requests\r\n\tslow down", "Too many requests slow down"),
        (
            "<html><head><title>503 Service Unavailable</title></head></html>",
            "503 Service Unavailable",
        ),
        (
            '{"error":"webhook_submission_limit_reached"}',
            '{"error":"webhook_submission_limit_reached"}',
        ),
        ("expected application/json and/or text", "expected application/json and/or text"),
        ("'email': 'o'brien@example.co.uk' is bad", "'email': [email] is bad"),
        ("ada%40example.com ada\\u0040example.com ada&#64;example.com", "[email] [email] [email]"),
        ("ada @ example.com", "[email]"),
        ("ada\uff20example\uff0ecom", "[email]"),
        ("ada\u200b@exam\u00adple.com", "[email]"),
        ("call +44 (0) 20 7946-0958 now", "call +[number] now"),
        ("see https://api.clay.com/v3/sources/webhook/my-table?x=1 now", "see [url] now"),
        ("POST /v3/sources/webhook/my-table failed", "POST [path] failed"),
        ("on acme-corp.example today", "on [url] today"),
        ("key sk_live_51HxYzAbCdEf ends", "key [opaque] ends"),
        ("\ud800lone\x00nul\x1b[31m", "lone nul [31m"),
    ],
)
def test_scrub_examples(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed


@pytest.mark.parametrize(
    ("word", "stays"),
    [
        ("abcdefghij1", True),
        ("abcdefghijk1", False),
        ("1abcdefghijklmnopqr", False),
        ("abcdefghijklmnopqrs", True),
        ("abcdefghijklmnopqrst", False),
        ("workspace_limit_reached", True),
        ("workspace_limit_reached1", False),
    ],
)
def test_which_words_are_opaque(word: str, stays: bool) -> None:
    """From 12 characters on a word with a digit may be a secret, from 20 on any word but an error
    code.
    """
    assert scrub(f"the {word} was refused") == f"the {word if stays else '[opaque]'} was refused"


@pytest.mark.parametrize("known", [("Ada", "Ada Lovelace"), ("Ada Lovelace", "Ada")])
def test_of_two_known_values_the_longer_one_is_removed_first(known: tuple[str, ...]) -> None:
    assert scrub("no row for Ada Lovelace, or Ada", known=known) == "no row for [sent], or [sent]"


@given(st.text(max_size=3_000), st.integers(20, 300))
def test_scrubbed_text_is_one_short_printable_line(text: str, limit: int) -> None:
    line = scrub(text, limit)
    assert len(line) <= limit
    assert line == " ".join(line.split())
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in line)
    line.encode()
    assert not re.search(r"\w@\w|://|\d{7}", line)


_around = st.text(st.sampled_from(string.ascii_letters + " \"'{}[]<>:,;=&?"), max_size=30)


@given(_around, st.emails(), _around)
def test_no_email_address_survives(before: str, email: str, after: str) -> None:
    local, _, domain = email.rpartition("@")
    line = scrub(f"{before} {email} {after}")
    assert "@" not in line
    assert domain not in line
    assert len(local) < 4 or local in before + after or local not in line


@given(st.from_regex(r"\+?[0-9]{2,4}([ ().-]{0,2}[0-9]{2,4}){2,4}", fullmatch=True), _around)
def test_no_phone_number_survives(phone: str, after: str) -> None:
    digits = re.sub(r"\D", "", phone)
    if len(digits) >= 7:
        assert digits not in re.sub(r"\D", "", scrub(f"phone: {phone} {after}"))


@given(
    st.sampled_from(["https", "http", "HTTPS", "ftp"]),
    st.from_regex(r"[a-z]{2,10}(\.[a-z]{2,6}){1,2}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_~%-]{5,30}", fullmatch=True),
)
def test_no_url_survives(scheme: str, host: str, slug: str) -> None:
    for url in (
        f"{scheme}://{host}/v3/{slug}",
        f"{scheme}:\\/\\/{host}\\/v3\\/{slug}",
        f"{host}/v3/{slug}",
    ):
        line = scrub(f'fault="{url}" again')
        assert host not in line
        assert slug not in line


@given(
    st.from_regex(r"[A-Za-z0-9+/_-]{10,60}[0-9A-Z][A-Za-z0-9+/_-]{10,60}={0,2}", fullmatch=True),
    _around,
)
def test_no_long_opaque_string_survives(token: str, after: str) -> None:
    assert token not in scrub(f"token {token} {after}")
    assert token[:20] not in scrub(f"{after} {token}")


@given(st.lists(st.text(min_size=2, max_size=20).filter(str.strip), min_size=1, max_size=5))
def test_an_excerpt_contains_no_sent_value(values: list[str]) -> None:
    line = scrub(" and ".join(values), known=values)
    for value in values:
        if len(value) == len(value.strip()) and value.isalpha() and value.isascii():
            assert not re.search(
                rf"(?<!\w){value}(?!\w)",
                line.replace("and", "").replace("sent", ""),
            )


@given(st.integers(900, 1_000))
def test_a_cut_leaves_no_piece_of_an_address(filler: int) -> None:
    text = "<b>" * filler + "x " * (filler // 2) + "firstname.lastname@example.com " + "y " * 2_000
    assert "firstname" not in scrub(text, limit=2_000)


@pytest.mark.parametrize(
    ("known", "text", "shown"),
    [
        ("a", "plan a fails", "plan a fails"),
        ("Al", "AL fails, al too", "[sent] fails, [sent] too"),
        ("Al", "All of ALF and final", "All of ALF and final"),
        ("Ada Lovelace", "no ada lovelace", "no [sent]"),
        ("absent", "nothing of it", "nothing of it"),
    ],
)
def test_a_known_value_goes_wherever_it_is_a_word_of_its_own(
    known: str,
    text: str,
    shown: str,
) -> None:
    assert scrub(text, known=[known]) == shown


def test_a_long_text_is_cut_between_words_and_a_long_word_goes() -> None:
    kept = scrub("good " * 10_000, limit=10**6)
    assert set(kept.split(" ")) == {"good"}
    assert len(kept) == 999, "200 words of 1,000 characters"
    assert scrub("x" * 10**6, limit=10**6) == "[opaque]"
    assert [len(scrub("ab " * 20, limit=limit)) for limit in (58, 59, 60)] == [58, 59, 59]
    assert scrub("ab " * 20, limit=58).endswith("…")
