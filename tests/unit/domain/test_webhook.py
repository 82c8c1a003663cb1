"""Which URL may be a webhook, and which text its token; what is wrong is said without repeating it."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.webhook import WEBHOOK_PATH, token_problem, webhook_problem

HOSTS = ["api.clay.com", "127.0.0.1", "sim:8000", "::1", "relay.example", "127.evil.example"]
CLAY = "https://api.clay.com"


@pytest.mark.parametrize(
    "host",
    [
        CLAY,
        f"{CLAY}:443",
        CLAY.upper(),
        "http://127.0.0.1:8",
        "http://[::1]:8",
        "http://sim:8000",
        "https://relay.example",
    ],
)
@pytest.mark.parametrize("slug", ["my-table", "a/b", "%2F"])
def test_a_valid_webhook_is_accepted(host: str, slug: str) -> None:
    assert webhook_problem(host + WEBHOOK_PATH + slug, HOSTS) is None


@pytest.mark.parametrize(
    ("problem", "url"),
    [
        *(("one of", f"http{host}{WEBHOOK_PATH}x") for host in ("://sim:8001", "s://a.b", "s://api.clay.com.a.b")),
        *(("https://", f"{host}{WEBHOOK_PATH}x") for host in ("http://api.clay.com", "ftp://api.clay.com", "a", "")),
        *(("https://", f"http://{host}{WEBHOOK_PATH}x") for host in ("relay.example", "127.evil.example")),
        *(
            ("no . or ..", f"{CLAY}{WEBHOOK_PATH}{path}")
            for path in ("../../v1/admin", "a/..", "%2e%2e/x", ".", "a/%252E%252e/x", "a%2f..%2fb", "..%5cx")
        ),
        *(("no user", f"{CLAY}{rest}") for rest in (f"@evil.example{WEBHOOK_PATH}x", f"{WEBHOOK_PATH}x#f")),
        *(("?query", f"{CLAY}{WEBHOOK_PATH}x{query}") for query in ("?a=b", "?")),
        *(("<slug>", f"{CLAY}{path}") for path in (WEBHOOK_PATH, "/webhook/x", "/", "")),
        *(("malformed", f"https://{host}{WEBHOOK_PATH}x") for host in ("api.clay.com:port", "[api")),
        *(("ASCII", f"{CLAY}{WEBHOOK_PATH}{slug}") for slug in ("x y", "x\n", "\u00e9")),
    ],
)
def test_an_invalid_webhook_is_refused(problem: str, url: str) -> None:
    assert problem in (webhook_problem(url, HOSTS) or "")


@given(st.one_of(st.text(), st.text().map(f"{CLAY}{WEBHOOK_PATH}".__add__)))
def test_a_valid_webhook_can_be_requested(url: str) -> None:
    if webhook_problem(url, HOSTS) is None:
        assert httpx.URL(url).host == "api.clay.com"


def test_a_token_is_printable_ascii() -> None:
    assert token_problem("abc 123~") is None
    assert all(token_problem(bad) for bad in ("", " a", "a\n", "a\r\nb: c", "\u00e9", "\x7f"))
