"""The look of numbers and times, the addresses of pages, and the static files."""

import gzip
from hashlib import sha256
from importlib.resources import files
from typing import Any, get_args

import pytest
from starlette.requests import Request

from stream_app.board import formats
from stream_app.board.formats import (
    FILTERS,
    FOR_TEMPLATES,
    Assets,
    amount,
    behind_path,
    cause_path,
    clock,
    count,
    day_of,
    dead_path,
    duration,
    give_up_path,
    iso,
    lane_path,
    lead_path,
    noun,
    replay_path,
    tone,
    total,
    words,
)
from stream_app.board.read_model.query import ListPlace
from stream_app.client.results.answers import Cause
from stream_app.domain.model.messages import Status
from stream_app.domain.views.explain import Finding

S = 1_000
MIN = 60 * S
H = 60 * MIN
DAY = 24 * H


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (0.4, "0 ms"),
        (240, "240 ms"),
        (-999, "-999 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (8_950, "8.9 s"),
        (9_050, "9.1 s"),
        (-1_000, "-1.0 s"),
        (9_949, "9.9 s"),
        (-9_949, "-9.9 s"),
        (10 * S, "10 s"),
        (59 * S + 999, "59 s"),
        (60 * S, "1 min"),
        (-60 * S, "-1 min"),
        (119 * S, "1 min"),
        (2 * MIN, "2 min"),
        (119 * MIN, "119 min"),
        (120 * MIN - 1, "119 min"),
        (2 * H, "2 h"),
        (48 * H - 1, "47 h"),
        (2 * DAY, "2 d"),
        (-2 * DAY - H, "-2 d"),
        (400 * DAY, "400 d"),
    ],
)
def test_a_duration_has_its_largest_unit(ms: float, text: str) -> None:
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1_240, "1,240"),
        (-1_240, "-1,240"),
        (1_240.0, "1,240"),
        (1_240.06, "1,240.1"),
        (1_240.04, "1,240"),
        (0.5, "0.5"),
    ],
)
def test_an_amount(value: float | None, text: str) -> None:
    assert amount(value) == text


def test_a_count_links_and_a_total_does_not() -> None:
    assert count(1_200, "/board/leads?a=1&b=<") == (
        '<a class="count" href="/board/leads?a=1&amp;b=&lt;">1,200</a>'
    )
    assert total(1_200) == '<span class="total">1,200</span>'


@pytest.mark.parametrize(
    ("number", "one", "many", "text"),
    [
        (1, "lead", "", "lead"),
        (1.0, "lead", "", "lead"),
        (0, "lead", "", "leads"),
        (2, "lead", "", "leads"),
        (1, "is", "are", "is"),
        (0, "is", "are", "are"),
    ],
)
def test_the_words_after_a_number(number: float, one: str, many: str, text: str) -> None:
    assert noun(number, one, many) == text
    assert noun(number, one) == (one if number == 1 else f"{one}s")


AT_MS = 1_790_038_000_999  # 2026-09-22 00:46:40 UTC


def test_times_are_utc() -> None:
    assert iso(AT_MS) == "2026-09-22T00:46:40Z"
    assert day_of(AT_MS // 1_000) == "2026-09-22"
    assert day_of(AT_MS // 1_000 - 2_801) == "2026-09-21"
    assert clock(AT_MS, AT_MS + 23 * H) == "00:46"
    assert clock(AT_MS, AT_MS + 24 * H) == "2026-09-22 00:46"
    assert clock(AT_MS, AT_MS - H) == "2026-09-22 00:46", "today is not the day of a later time"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rejected_invalid", "rejected"),
        ("served_locally", "answered without Clay"),
        ("http_503", "http 503"),
        ("", ""),
        ("confirmed", "at Clay, as an operator says"),
    ],
)
def test_a_code_in_words(name: str, text: str) -> None:
    assert words(name) == text


def test_each_status_has_its_tone() -> None:
    tones: dict[str, set[str]] = {}
    for status in get_args(Status):
        tones.setdefault(tone(status), set()).add(status)
    assert tones["bad"] == {
        "refused",
        "send_uncertain",
        "callback_overdue",
        "enrich_error",
        "credits_exhausted_suspected",
        "dead_lettered",
        "parked",
        "rejected_invalid",
    }
    assert tones["warn"] == {"held_budget", "held_paused", "held_outage", "deferred"}
    assert tones["ok"] == {
        "enriched",
        "partial",
        "no_data",
        "served_from_cache",
        "served_locally",
    }
    assert tones.keys() == {"bad", "warn", "ok", "idle"}
    assert tone("of a newer version") == "idle"


CAUSE = Cause("failed", "acme", "", "a b", "503", open=7)


CAUSE_QUERY = "kind=failed&workspace=acme&reason=a+b&http_status=503"


def test_the_address_of_each_page() -> None:
    addresses = {
        lane_path("a/b c"): "lanes/a%2Fb%20c",
        lead_path("a/b:c d"): "leads/a/b:c%20d",
        replay_path("a/b"): "replays/a%2Fb",
        dead_path(): "dead",
        dead_path("parked", "acme", 50): "dead?from=parked&workspace=acme&after=50",
        cause_path("dlq", CAUSE): f"dead/records?from=dlq&{CAUSE_QUERY}",
        cause_path("parked", CAUSE, "day", ListPlace(7, 8), "open"): (
            f"dead/records?from=parked&{CAUSE_QUERY}&span=day&state=open&after=7-8"
        ),
        give_up_path("dlq", CAUSE): f"dead/act/give-up?from=dlq&{CAUSE_QUERY}",
        give_up_path("parked", CAUSE, "leads.parked/0/7"): (
            f"dead/act/give-up?from=parked&{CAUSE_QUERY}&record=leads.parked%2F0%2F7"
        ),
        formats.lanes_path(): "lanes",
        formats.lanes_path(state="", begins=None, after="x"): "lanes?after=x",
        formats.leads_path(status="a,b"): "leads?status=a%2Cb",
        formats.waiting_path(partition=0): "waiting?partition=0",
        formats.imports_path(id="x"): "imports?id=x",
        FOR_TEMPLATES["money_path"](day="x"): "money?day=x",
        FOR_TEMPLATES["audit_path"](who="x"): "audit?who=x",
    }
    assert list(addresses) == [f"/board/{address}" for address in addresses.values()]
    assert dead_path("dlq", "", 0) == "/board/dead"


@pytest.mark.parametrize(
    ("finding", "address"),
    [
        (Finding("replay_paused", ""), "leads?status=dead_lettered%2Cdeferred"),
        (Finding("no_replay", "", "acme"), "leads?status=dead_lettered%2Cdeferred"),
        (Finding("no_worker", ""), "waiting"),
        (Finding("paused", "", "acme", waiting=9), "waiting?partition=3"),
        (Finding("paused", "", "acme", waiting=8), "waiting?topic=leads.bulk&partition=3"),
    ],
)
def test_what_waits_behind_a_finding(finding: Finding, address: str) -> None:
    assert behind_path("leads.bulk", finding, 3, 9) == f"/board/{address}"


def test_behind_a_lane_of_the_first_partition() -> None:
    assert behind_path("leads.bulk", Finding("paused", "", "acme")) == "/board/waiting?partition=0"


def test_templates_have_all_by_their_names() -> None:
    for name in ("amount", "duration", "iso", "words", "tone"):
        assert FILTERS[name] is getattr(formats, name)
    assert FILTERS["day"] is day_of
    assert FILTERS["shell"]("a b") == "'a b'"
    for name in ("count", "total", "noun", "lane_path", "lead_path", "dead_path", "cause_path"):
        assert FOR_TEMPLATES[name] is getattr(formats, name)
    for name in ("give_up_path", "replay_path", "lanes_path", "leads_path", "waiting_path"):
        assert FOR_TEMPLATES[name] is getattr(formats, name)


def asking(path: str, encoding: str | None) -> Request:
    headers = [] if encoding is None else [(b"accept-encoding", encoding.encode())]
    return Request({"type": "http", "path_params": {"path": path}, "headers": headers})


@pytest.mark.parametrize("encoding", ["br, gzip;q=1.0", "br", None])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("board.css", "text/css; charset=utf-8"),
        ("charts.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("vendor/uplot-1.6.32.min.css", "text/css; charset=utf-8"),
    ],
)
async def test_a_static_file_is_kept_for_ever_at_an_address_of_its_content(
    name: str,
    kind: str,
    encoding: str | None,
) -> None:
    assets = Assets()
    body = (files("stream_app.board") / "static").joinpath(*name.split("/")).read_bytes()
    path = f"{sha256(body).hexdigest()[:16]}/{name}"
    assert assets.url(name) == f"/board/static/{path}"
    answer = await assets.serve(asking(path, encoding))
    headers: dict[str, Any] = dict(answer.headers)
    is_zipped = "gzip" in (encoding or "")
    assert headers.pop("content-encoding", "") == ("gzip" if is_zipped else "")
    assert headers == {
        "cache-control": "public, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
        "vary": "accept-encoding",
        "content-type": kind,
        "content-length": str(len(answer.body)),
    }
    assert answer.status_code == 200
    assert (gzip.decompress(bytes(answer.body)) if is_zipped else answer.body) == body
    if is_zipped:
        assert answer.body == gzip.compress(body, 9, mtime=0), "the same bytes on each start"


@pytest.mark.parametrize("path", ["board.css", "0000000000000000/board.css", "", "../site.py"])
async def test_there_is_no_other_file(path: str) -> None:
    answer = await Assets().serve(asking(path, "gzip"))
    assert answer.status_code == 404
    assert answer.body == b"There is no such file.\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "cache-control" not in answer.headers
