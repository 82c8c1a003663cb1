"""The token of a callback: good for one lead at one destination, for as long as its key is listed."""

import hmac
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.callback.token import Keys, Verified, problem_of, sign, verify

OLD, NEW = "the-old-secret-of-32-characters!", "the-new-secret-of-32-characters!"
KEYS = Keys([NEW, OLD])
LEAD = ("acme", "people", "crm-17")
ORIGIN = "leads/3/1234"

texts = st.text(max_size=20)
leads = st.tuples(texts, texts, texts)


def test_a_token_is_valid_for_its_lead() -> None:
    token = sign(KEYS, *LEAD)
    assert verify(KEYS, token, *LEAD) == Verified("")
    assert token.startswith(f"{KEYS.first}.")
    assert token.count(".") == 1


def test_the_mac_covers_the_origin() -> None:
    mac, other = sign(KEYS, *LEAD, ORIGIN), sign(KEYS, *LEAD, "leads/3/9999")
    forged = ".".join([*mac.split(".")[:2], other.split(".")[2]])
    assert verify(KEYS, forged, *LEAD) == "mismatch"
    assert verify(KEYS, ".".join(mac.split(".")[:2]), *LEAD) == "mismatch"
    assert verify(KEYS, f"{sign(KEYS, *LEAD)}.", *LEAD) == "mismatch"


def test_a_token_of_a_listed_old_key_is_valid() -> None:
    before = sign(Keys([OLD]), *LEAD)
    assert isinstance(verify(Keys([OLD, NEW]), sign(KEYS, *LEAD), *LEAD), Verified), "the new key is known first"
    assert isinstance(verify(KEYS, before, *LEAD), Verified), "then it signs, and the old one still verifies"
    assert sign(KEYS, *LEAD) != before
    assert verify(Keys([NEW]), before, *LEAD) == "unknown_key", "then it is gone"


@pytest.mark.parametrize("token", ["", ".", "x", "x.", "..", "x" * 5000, ".".join("abcd"), "{{callback_token}}"])
def test_malformed_tokens_are_refused(token: str) -> None:
    assert verify(KEYS, token, *LEAD) in ("malformed", "unknown_key")


def test_a_token_of_no_lead_is_refused_before_the_lead_is_read() -> None:
    assert problem_of(KEYS, sign(KEYS, *LEAD)) is None
    assert problem_of(KEYS, sign(KEYS, "another", "table", "lead")) is None, "that shows with the lead only"
    assert problem_of(Keys([NEW]), sign(Keys([OLD]), *LEAD)) == "unknown_key"
    for token in ("", "x", "x.", "x" * 5000, f"{sign(KEYS, *LEAD)}.é"):
        assert problem_of(KEYS, token) == verify(KEYS, token, *LEAD)


@pytest.mark.parametrize("origin", ["!", "a", "_w", "é", "\ud800"])
def test_a_malformed_origin_is_refused(origin: str) -> None:
    assert verify(KEYS, f"{sign(KEYS, *LEAD)}.{origin}", *LEAD) in ("malformed", "mismatch")


@given(leads, leads, texts, texts)
def test_a_token_is_valid_for_no_other_lead(
    mine: tuple[str, str, str], other: tuple[str, str, str], origin: str, another: str
) -> None:
    token = sign(KEYS, *mine, origin)
    assert verify(KEYS, token, *mine) == Verified(origin)
    if other != mine:
        assert verify(KEYS, token, *other) == "mismatch"
    assert (sign(KEYS, *mine, another) == token) == (origin == another)


@given(st.integers(0, 100), st.text(min_size=1, max_size=3))
def test_a_changed_token_is_refused(at: int, put: str) -> None:
    token = sign(KEYS, *LEAD, ORIGIN)
    changed = token[:at] + put + token[at + len(put) :]
    assert changed == token or not isinstance(verify(KEYS, changed, *LEAD), Verified)


@given(st.text(alphabet=st.characters(), max_size=60))
def test_no_input_raises_an_error(token: str) -> None:
    assert isinstance(verify(KEYS, token, *LEAD), str)
    assert isinstance(verify(KEYS, f"{KEYS.first}.{token}", *LEAD), str)


@pytest.mark.parametrize("token", [sign(KEYS, *LEAD), f"{KEYS.first}.x", sign(KEYS, *LEAD)[:-1] + "!"])
def test_every_wrong_token_is_compared_in_the_same_time(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Mock(wraps=hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", compared)
    verify(KEYS, token, *LEAD)
    compared.assert_called_once_with(sign(KEYS, *LEAD).encode(), token.encode())


def test_no_text_contains_a_secret() -> None:
    assert "secret" not in repr(KEYS)
    with pytest.raises(ValueError, match="at least one"):
        Keys([])
