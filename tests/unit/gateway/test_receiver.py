"""The receiver: what is right is kept before it is answered, all else is refused in words, all is
counted.
"""

import hmac
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock, call

import httpx
import pytest
from structlog.testing import capture_logs

from stream_app.config.model import Gateway as Limits
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.tokens import Keys, TokenProblem, Verified, sign
from stream_app.domain.model.topics import home_partition
from stream_app.gateway import holding, lead_bound, receiver
from stream_app.gateway.tables import CallbackTable, Tables
from tests.gateway.fuzz import fuzz
from tests.gateway.support import (
    AT_MS,
    GONE_KEY,
    KEYS,
    OLD_KEY,
    PARTITIONS,
    SECRET,
    TABLES,
    URL,
    Gateway,
    good,
)

STATIC = "/callbacks/beta/static"


async def test_a_callback_is_kept_in_its_workspace_s_home_and_answered_in_words() -> None:
    gateway = Gateway()
    answer = await gateway.post(good(status="enriched", attempt="2"))
    assert answer.status_code == 200
    assert answer.text == "Received: lead crm-17, enriched. Nothing to do.\n"
    (record,) = gateway.inbox.records
    assert record.topic == "leads.callbacks"
    assert record.key == b"acme"
    assert record.partition == 2
    (callback,) = gateway.inbox.callbacks()
    assert callback.lead_id == "crm-17"
    assert callback.workspace == "acme"
    assert callback.destination == "people"
    assert callback.outcome == "enriched"
    assert callback.credits == 7
    assert callback.attempt == 2
    assert callback.at_ms == AT_MS
    assert callback.fields == {"title": "CEO"}
    assert gateway.counted() == {"enriched": 1}


async def test_the_token_may_be_a_header() -> None:
    gateway = Gateway()
    body = good()
    answer = await gateway.post(body, headers={"x-callback-token": body.pop("callback_token")})
    assert answer.status_code == 200


async def test_a_forced_lead_says_which_record_it_is_about() -> None:
    gateway = Gateway()
    assert (await gateway.post(good(origin="leads/2/77"))).status_code == 200
    assert gateway.inbox.callbacks()[0].forced_origin == "leads/2/77"


async def test_an_older_key_is_good_while_it_is_listed() -> None:
    gateway = Gateway()
    assert (await gateway.post(good(keys=Keys([OLD_KEY])))).status_code == 200
    answer = await gateway.post(good(keys=Keys([GONE_KEY])))
    assert answer.status_code == 403
    assert "no longer in use" in answer.text
    assert gateway.counted() == {"enriched": 1, "unknown_key": 1}


TOKEN = sign(Keys([OLD_KEY]), "acme", "people", "crm-17")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"callback_token": None}, 401, "no_token"),
        ({"callback_token": ""}, 401, "no_token"),
        ({"callback_token": "secret"}, 403, "malformed_token"),
        ({"callback_token": TOKEN[:-1]}, 403, "wrong_token"),
        ({"callback_token": f"{TOKEN}.bGVhZHMvMC8x"}, 403, "wrong_token"),
        ({"callback_token": sign(Keys([OLD_KEY]), "acme", "other", "crm-17")}, 403, "wrong_token"),
        ({"callback_token": sign(Keys([OLD_KEY]), "beta", "people", "crm-17")}, 403, "wrong_token"),
        ({"lead_id": "crm-18"}, 403, "wrong_token"),
        ({"lead_id": "{{lead_id}}"}, 400, "template"),
        ({"callback_token": "{{callback_token}}"}, 400, "template"),
        ({"title": "{{Title}}"}, 400, "template"),
        ({"title": ["CEO"]}, 400, "nested"),
        ({"workspace": "beta"}, 400, "other_address"),
    ],
)
async def test_which_callbacks_are_refused(change: dict[str, Any], status: int, code: str) -> None:
    gateway = Gateway()
    answer = await gateway.post(good() | change)
    assert answer.status_code == status
    assert gateway.counted() == {code: 1}
    assert gateway.responses() == {str(status): 1}
    assert not gateway.inbox.records
    assert "CEO" not in answer.text


async def test_a_refusal_does_not_tell_whether_a_lead_exists() -> None:
    gateway = Gateway()
    known = await gateway.post(good())
    assert known.status_code == 200
    wrong = [
        await gateway.post(good(lead) | {"callback_token": TOKEN[:-2] + "xx"})
        for lead in ("crm-17", "never-sent")
    ]
    assert wrong[0].text == wrong[1].text


@pytest.mark.parametrize(
    "url",
    ["/callbacks/", "/callbacks/acme", "/callbacks/acme/n one", f"{URL}/", f"{URL}/x"],
)
async def test_no_such_address(url: str) -> None:
    gateway = Gateway()
    answer = await gateway.post(good(), url)
    assert answer.status_code == 404
    assert "clay-setup" in answer.text
    assert gateway.counted() == {"not_here": 1}
    assert gateway.registry.get_sample_value(
        "stream_app_callbacks_total",
        {"destination": "other", "answer": "not_here"},
    )


async def test_a_table_with_a_secret_of_its_own() -> None:
    gateway = Gateway()
    body = {"lead_id": "crm-17", "title": "CEO"}
    for secret in (SECRET, "the one before"):
        assert (await gateway.post(body, STATIC, {"x-callback-secret": secret})).status_code == 200
    assert (
        await gateway.post(body, STATIC, {"x-callback-secret": f"{SECRET}x"})
    ).status_code == 403
    assert (await gateway.post(body, STATIC)).status_code == 401
    assert (await gateway.post(body, URL, {"x-callback-secret": SECRET})).status_code == 401, (
        "another table's"
    )
    assert gateway.counted() == {"enriched": 2, "bad_secret": 1, "no_secret": 1, "no_token": 1}


@pytest.mark.parametrize("given", [SECRET, "the one before", "wrong"])
async def test_every_secret_is_compared_in_constant_time(
    given: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = Mock(wraps=hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", compared)
    await Gateway().post(
        {"lead_id": "crm-17", "title": "CEO"},
        STATIC,
        {"x-callback-secret": given},
    )
    assert compared.mock_calls == [
        call(given.encode(), secret) for secret in (SECRET.encode(), b"the one before")
    ]


async def test_a_token_that_comes_to_such_a_table_must_be_right() -> None:
    gateway = Gateway()
    body = {"lead_id": "crm-17", "title": "CEO", "callback_token": TOKEN}
    assert (await gateway.post(body, STATIC, {"x-callback-secret": SECRET})).status_code == 403
    keyless = Gateway(keys=None)
    assert (await keyless.post(body, STATIC, {"x-callback-secret": SECRET})).status_code == 200
    assert (await keyless.post(good())).status_code == 401, "without keys no token is good"


SHORT = Limits(max_body_bytes=65_536, read_timeout_s=5, hold_s=0.05)


async def test_kafka_away_is_said_and_the_callback_stays_held() -> None:
    gateway = Gateway(limits=SHORT)
    gateway.inbox.fails_with = BrokerUnavailable("away")
    answer = await gateway.post(good())
    assert answer.status_code == 429, "the only status of ours that a Clay column repeats by itself"
    assert answer.headers["retry-after"] == "30"
    assert "Held in memory" in answer.text
    async with gateway.client() as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 404, (
            "it names customers: it is on the port for operations"
        )
    assert gateway.counted() == {"kafka_away": 1}
    assert gateway.registry.get_sample_value("stream_app_callbacks_held") == 1


async def test_a_held_callback_counts_for_its_lead_and_one_without_a_place_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lead_bound, "AT_ONCE", 2)
    monkeypatch.setattr(holding, "MAX_CALLBACKS", 1)
    gateway = Gateway(limits=SHORT)
    gateway.inbox.fails_with = BrokerUnavailable("away")
    for _ in range(2):
        assert "Held in memory" in (await gateway.post(good("a"))).text
    for _ in range(3):
        assert "too many callbacks are held" in (await gateway.post(good("b"))).text
    assert "too often" in (await gateway.post(good("a"))).text
    assert gateway.counted() == {"kafka_away": 2, "holding_full": 3, "too_often": 1}


async def test_bodies_that_are_read_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b" " * 600
        answer = await gateway.post(b" " * 600)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "30"
        yield b"x"

    monkeypatch.setattr(receiver, "_MAX_READ_BYTES", 1_000)
    gateway = Gateway()
    async with gateway.client() as client:
        assert (await client.post(URL, content=half())).status_code == 400
    assert (await gateway.post(b" " * 900)).status_code == 400, "what was read is released"
    assert gateway.counted() == {"too_many": 1, "not_json": 1, "empty": 1}


async def test_a_crash_of_ours_is_answered_and_counted() -> None:
    gateway = Gateway()

    gateway.inbox.fails_with = RuntimeError("a bug")
    transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.post(URL, json=good())
    assert answer.status_code == 500
    assert "internal error" in answer.text
    assert gateway.counted() == {"crashed": 1}
    assert gateway.responses() == {"500": 1}


async def test_logs_are_bounded_and_hold_no_data_of_the_lead() -> None:
    gateway = Gateway()
    with capture_logs() as lines:
        for _ in range(50):
            await gateway.post(good("ada-lovelace") | {"callback_token": TOKEN})
        await gateway.post(good())
    assert len(lines) == 1
    assert lines[0]["because"] == "wrong_token"
    assert "ada" not in str(lines)


def of_globex(keys: Keys = KEYS) -> dict[str, Any]:
    return {
        "lead_id": "crm-1",
        "callback_token": sign(keys, "globex", "firms", "crm-1"),
        "size": "5",
    }


async def test_a_token_proves_a_lead_of_a_workspace_that_is_not_configured_here() -> None:
    gateway = Gateway()
    for query in ("", "?partition=5", "?partition=99", "?partition=x"):
        assert (
            await gateway.post(of_globex(), f"/callbacks/globex/firms{query}")
        ).status_code == 200
    home = home_partition("globex", PARTITIONS, {})
    assert [record.partition for record in gateway.inbox.records] == [home, 5, home, home]
    assert {record.key for record in gateway.inbox.records} == {b"globex"}
    assert {(one.workspace, one.destination) for one in gateway.inbox.callbacks()} == {
        ("globex", "firms"),
    }
    assert gateway.registry.get_sample_value(
        "stream_app_callbacks_total",
        {"destination": "other", "answer": "enriched"},
    ), "names that anyone can make up are no labels"


async def test_without_its_token_it_is_refused() -> None:
    gateway = Gateway()
    for body, status in (
        (of_globex(Keys([GONE_KEY])), 403),
        (good(), 403),
        ({"lead_id": "crm-1"}, 401),
    ):
        assert (await gateway.post(body, "/callbacks/globex/firms")).status_code == status
    headers = {"x-callback-secret": SECRET}
    assert (
        await gateway.post({"lead_id": "crm-1"}, "/callbacks/globex/firms", headers)
    ).status_code == 401
    assert (
        await Gateway(keys=None).post(of_globex(), "/callbacks/globex/firms")
    ).status_code == 404
    assert not gateway.inbox.records


async def test_the_partition_of_a_url_counts_for_no_configured_workspace() -> None:
    gateway = Gateway()
    assert (await gateway.post(good(), f"{URL}?partition=5")).status_code == 200
    assert gateway.inbox.records[0].partition == 2


async def test_a_secret_counts_from_when_the_gateway_has_its_table() -> None:
    gateway = Gateway()
    headers = {"x-callback-secret": SECRET}
    assert (
        await gateway.post({"lead_id": "crm-1"}, "/callbacks/globex/firms", headers)
    ).status_code == 401
    gateway.receiver.tables = Tables(
        [*TABLES, CallbackTable("globex", "firms", 3, (SECRET.encode(),))],
        KEYS,
        PARTITIONS,
    )
    assert (
        await gateway.post({"lead_id": "crm-1"}, "/callbacks/globex/firms", headers)
    ).status_code == 200
    assert gateway.inbox.records[0].partition == 3


async def test_keys_that_go_while_a_body_comes_leave_no_request_without_its_proof() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"lead_id": '
        gateway.receiver.tables = Tables(TABLES, None, PARTITIONS)
        yield b'"crm-17"}'

    gateway = Gateway()
    answer = await gateway.client().post(
        STATIC,
        content=body(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 401
    assert gateway.inbox.records == []


@pytest.mark.parametrize("requests", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_none_crashes_none_is_taken_without_a_token_and_each_is_counted(
    requests: int,
) -> None:
    findings, gateway = await fuzz(requests, seed=7)
    assert findings.faults == []
    assert findings.requests == requests
    counted = gateway.counted()
    assert counted["enriched"] > requests // 10, "most were not far from right"
    assert len(counted) > 20, "and wrong in every way that there is"


async def test_the_check_finds_an_accepted_token_of_another_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def whose_ever(keys: Keys, token: str, *_: str) -> Verified | TokenProblem:
        return Verified("") if token.count(".") == 1 else "malformed"

    monkeypatch.setattr(receiver, "verify", whose_ever)
    findings, _ = await fuzz(500, seed=7)
    assert any("without a token of it" in line for line in findings.faults)
