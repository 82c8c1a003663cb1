"""Announcements of runs: only what Clay has signed is stored, and repeating it does no harm."""

import json
from typing import Any, Final

import httpx
import msgspec
import pytest

from stream_app.config.model import Gateway as Limits
from stream_app.domain.callback.run_webhook import sign_run
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.messages import Callback, RunNotification
from stream_app.domain.model.tokens import Keys
from stream_app.gateway import lead_bound
from stream_app.gateway.lead_bound import LeadBound
from stream_app.gateway.receiver import Receiver
from stream_app.gateway.tables import CallbackTable, Tables
from tests.gateway.support import (
    AT_MS,
    KEYS,
    PARTITIONS,
    RUN_SECRET,
    RUN_URL,
    TABLES,
    Gateway,
    announcement,
)

OTHER_SECRET: Final = "whsec_another one, as a routine beside it has"


async def announce(
    gateway: Gateway,
    body: dict[str, Any] | str | bytes | None = None,
    url: str = RUN_URL,
    secret: str = RUN_SECRET,
    **headers: str,
) -> httpx.Response:
    """Post an announcement with the signature that belongs to it."""
    raw = announcement() if body is None else body
    raw = json.dumps(raw) if isinstance(raw, dict) else raw
    raw = raw.encode() if isinstance(raw, str) else raw
    given = {"x_clay_signature": sign_run(raw, secret.encode())} | headers
    return await gateway.post(
        raw,
        url,
        {name.replace("_", "-"): value for name, value in given.items()},
    )


async def test_a_run_is_stored_in_its_workspace_s_home_and_is_no_callback() -> None:
    gateway = Gateway()
    answer = await announce(gateway)
    assert answer.status_code == 200
    assert answer.text == "Received: a run that has finished. Nothing to do.\n"
    (record,) = gateway.inbox.records
    assert record.topic == "leads.callbacks"
    assert record.key == b"acme"
    assert record.partition == 2
    stored = msgspec.json.decode(record.value or b"", type=RunNotification)
    assert stored == RunNotification("acme", "finder", "run-1", AT_MS)
    assert gateway.counted() == {"run_announced": 1}
    # A worker of an earlier version decodes every record of the topic as a callback, and reports
    # one that is none as unreadable.
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(record.value or b"", type=Callback)


async def test_the_signature_is_that_of_the_raw_bytes_whatever_they_look_like() -> None:
    gateway = Gateway()
    loose = b'{ "data" : {"routine_run_id":"run-\\u0031", "new": [1]},\n\t"webhookId": 7 }  '
    assert (await announce(gateway, loose)).status_code == 200
    assert gateway.runs() == ["run-1"]
    signature = sign_run(loose, RUN_SECRET.encode())
    tighter = json.dumps(json.loads(loose))
    assert (await announce(gateway, tighter, x_clay_signature=signature)).status_code == 403
    assert gateway.counted() == {"run_announced": 1, "bad_signature": 1}


async def test_the_signature_may_be_in_capitals() -> None:
    raw = json.dumps(announcement())
    signature = sign_run(raw.encode(), RUN_SECRET.encode())
    capitals = signature.replace(signature[7:], signature[7:].upper())
    assert (await announce(Gateway(), raw, x_clay_signature=capitals)).status_code == 200


RIGHT: Final = sign_run(json.dumps(announcement()).encode(), RUN_SECRET.encode())


@pytest.mark.parametrize(
    "signature",
    [
        "",
        RIGHT[7:],
        RIGHT[:-1],
        f"{RIGHT}0",
        f" {RIGHT[7:]}",
        RIGHT.replace("sha256", "sha1"),
        "sha256=" + "0" * 64,
        "sha256=" + "z" * 64,
        sign_run(b"", RUN_SECRET.encode()),
        sign_run(json.dumps(announcement()).encode(), OTHER_SECRET.encode()),
        sign_run(json.dumps(announcement()).encode(), b""),
    ],
)
async def test_what_clay_has_not_signed_is_refused_and_stored_nowhere(signature: str) -> None:
    gateway = Gateway()
    answer = await announce(gateway, x_clay_signature=signature)
    assert answer.status_code == 403
    assert "run_webhook_secret_env" in answer.text
    assert RUN_SECRET not in answer.text
    assert gateway.counted() == {"bad_signature": 1}
    assert not gateway.inbox.records


async def test_a_callback_token_or_a_secret_proves_no_run() -> None:
    gateway = Gateway()
    answer = await gateway.post(announcement(), RUN_URL, {"x-callback-secret": RUN_SECRET})
    assert answer.status_code == 401
    assert "X-Clay-Signature" in answer.text
    assert gateway.counted() == {"no_signature": 1}


async def test_a_signature_proves_no_callback() -> None:
    gateway = Gateway()
    signed = await announce(gateway, {"lead_id": "crm-17", "title": "CEO"}, "/callbacks/acme/other")
    assert signed.status_code == 401
    assert gateway.counted() == {"no_token": 1}


async def test_the_secret_of_a_routine_is_good_at_its_own_address_only() -> None:
    gateway = Gateway()
    assert (await announce(gateway, url="/callbacks/beta/finder/run")).status_code == 403
    assert (await announce(gateway, url="/callbacks/acme/people/run")).status_code == 404
    assert (await announce(gateway, url=f"{RUN_URL}/")).status_code == 404
    assert gateway.counted() == {"bad_signature": 1, "not_here": 2}


async def test_a_test_of_the_webhook_is_answered_and_not_stored() -> None:
    """`clay webhooks test` names no run."""
    gateway = Gateway()
    answer = await announce(gateway, announcement() | {"data": {}})
    assert answer.status_code == 200
    assert "its signature is right" in answer.text
    assert gateway.counted() == {"run_test": 1}
    assert not gateway.inbox.records


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"webhookId": "wh_1"}',
        b'{"data": null}',
        b'{"data": {"routine_run_id": 7}}',
        b'{"data": {"routine_run_id": ""}}',
        b'{"data": {"routine_run_id": "a b"}}',
        b'{"data": {"routine_run_id": "a\\nb"}}',
        '{"data": {"routine_run_id": "läuft"}}'.encode(),
        b'{"data": {"routine_run_id": "' + b"r" * 129 + b'"}}',
        b'{"data": {"routine_run_id": "r"}, "x": ' + b"[" * 8_000 + b"]" * 8_000 + b"}",
    ],
)
async def test_what_names_no_run_is_refused_although_it_is_signed(body: bytes) -> None:
    gateway = Gateway()
    answer = await announce(gateway, body)
    assert answer.status_code == 400
    assert "data.routine_run_id" in answer.text
    assert gateway.counted() == {"no_run": 1}
    assert not gateway.inbox.records


async def test_a_run_has_at_most_128_characters() -> None:
    gateway = Gateway()
    longest = "r" * 128
    assert (await announce(gateway, announcement(longest))).status_code == 200
    assert gateway.runs() == [longest]


@pytest.mark.parametrize(("size", "status"), [(16_384, 200), (16_385, 413)])
async def test_little_is_read_before_the_signature_is_known(size: int, status: int) -> None:
    gateway = Gateway()
    body = json.dumps(announcement()).encode()
    assert (await announce(gateway, body + b" " * (size - len(body)))).status_code == status


async def test_a_smaller_bound_of_the_gateway_holds_here_too() -> None:
    gateway = Gateway(limits=Limits(max_body_bytes=1_024))
    body = json.dumps(announcement()).encode()
    assert (await announce(gateway, body + b" " * (1_025 - len(body)))).status_code == 413


async def test_a_recorded_announcement_that_is_sent_on_and_on_fills_no_topic() -> None:
    gateway = Gateway()
    for _ in range(40):
        assert (await announce(gateway)).status_code == 200
    assert gateway.counted() == {"run_announced": lead_bound.AT_ONCE, "run_repeated": 10}
    assert len(gateway.inbox.records) == lead_bound.AT_ONCE
    assert (await announce(gateway, announcement("run-2"))).status_code == 200
    assert gateway.runs()[-1] == "run-2", "each run counts by itself"


async def test_many_runs_take_no_more_memory_than_many_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lead_bound, "MAX_LEADS", 50)
    gateway = Gateway()
    for number in range(200):
        assert (await announce(gateway, announcement(f"run-{number}"))).status_code == 200
    assert len(bound_of(gateway.receiver)) == 50


def bound_of(receiver: Receiver) -> LeadBound:
    return receiver._bound


async def test_while_kafka_is_away_a_run_is_held_once_and_written_when_it_is_back() -> None:
    gateway = Gateway(limits=Limits(hold_s=0.05))
    gateway.inbox.fails_with = BrokerUnavailable("away")
    for _ in range(2):
        answer = await announce(gateway)
        assert answer.status_code == 429
        assert "Held in memory" in answer.text
    gateway.inbox.fails_with = None
    assert await gateway.holding.write_rest(5.0) == 0
    assert gateway.runs() == ["run-1"]
    assert (await announce(gateway)).status_code == 200


async def test_runs_of_two_workspaces_with_one_id_are_two() -> None:
    gateway = Gateway(limits=Limits(hold_s=0.05))
    gateway.inbox.fails_with = BrokerUnavailable("away")
    await announce(gateway)
    await announce(gateway, url="/callbacks/beta/finder/run", secret=OTHER_SECRET)
    gateway.inbox.fails_with = None
    assert await gateway.holding.write_rest(5.0) == 0
    assert sorted(record.key or b"" for record in gateway.inbox.records) == [b"acme", b"beta"]


def test_a_completion_webhook_is_known_by_its_secret_alone() -> None:
    tables = Tables(TABLES, KEYS, PARTITIONS)
    known = tables.at(RUN_URL, b"")
    assert known is not None
    assert known.signs
    assert tables.at("/callbacks/acme/unknown/run", b"") is None, "no token can prove it"
    assert Tables(TABLES, None, PARTITIONS).at(RUN_URL, b"") is known


def test_another_secret_of_a_routine_changes_the_fingerprint() -> None:
    def digest(secret: bytes) -> str:
        table = CallbackTable("acme", "finder", 2, (secret,), signs=True)
        return Tables([table], Keys(["k" * 32]), PARTITIONS).digest

    assert digest(b"one") == digest(b"one") != digest(b"two")
