"""The answer to a test lead of `doctor` is described, without a value, and no other one."""

import msgspec
import pytest

from stream_app.clay import client as clay_http
from stream_app.clay.client import answer_of
from stream_app.domain.model.outcome import Accepted, Denied, Outcome, RateLimited, Uncertain
from stream_app.domain.model.seen import Seen
from tests.support.raw_server import (
    EGRESS,
    HANG,
    LEAD,
    READ,
    RESET,
    SLUG,
    TOKEN,
    ServerStep,
    patient,
    serve,
)

TEST = b'{"email":"doctor-7@example.com","first_name":"Jane","lead_id":"doctor-7"}'


def answering(head: bytes, body: bytes) -> list[ServerStep]:
    return [READ, b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)]


async def outcome_of(script: list[ServerStep], lead: bytes = TEST) -> Outcome:
    async with serve(*script) as server, patient() as clay:
        return await clay.send(server.url, TOKEN, lead)


JSON = b"\r\ncontent-type: application/json"


async def test_an_acceptance_is_described() -> None:
    body = b'{"success":true,"workflowRunId":"wfr_1"}'
    outcome = await outcome_of(answering(b"202 Accepted" + JSON, body))
    assert isinstance(outcome, Accepted)
    assert outcome.seen == Seen(
        202,
        outcome.latency_ms,
        {"content-type": "application/json"},
        {"success": "true or false", "workflowRunId": "text"},
    )


async def test_a_body_that_comes_later_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clay_http, "_ANSWER_WAIT_S", 60.0)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n"
    outcome = await outcome_of([READ, head, 0.1, b'{"a":', 0.1, b'"text"}'])
    assert isinstance(outcome, Accepted)
    assert outcome.seen is not None
    assert outcome.seen.body == {"a": "text"}


async def test_an_acceptance_whose_body_breaks_off_is_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clay_http, "_ANSWER_WAIT_S", 0.2)
    for end in (RESET, HANG):
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n"
        outcome = await outcome_of([READ, head, 0.1, end])
        assert isinstance(outcome, Accepted)
        assert outcome.seen is not None
        assert outcome.seen.body == {"": "nothing"}


async def test_a_refusal_is_described_without_what_was_sent() -> None:
    outcome = await outcome_of(answering(b"429 X\r\nretry-after: 1", b"no"))
    assert isinstance(outcome, RateLimited)
    assert outcome.seen == Seen(
        429,
        outcome.latency_ms,
        {"retry-after": "1"},
        {"": "text"},
    )
    body = msgspec.json.encode({"Jane": 1, SLUG: 1, TOKEN: {"doctor-7": 2}, "message": "x"})
    outcome = await outcome_of(answering(b"401 X" + JSON, body))
    assert isinstance(outcome, Denied)
    assert outcome.seen is not None
    assert outcome.seen.body.keys() == {
        "(another name)",
        "(another name).(another name)",
        "message",
    }


async def test_without_an_answer_there_is_nothing_to_describe() -> None:
    outcome = await outcome_of([READ, RESET])
    assert isinstance(outcome, Uncertain)
    assert outcome.seen is None


@pytest.mark.parametrize("status", [b"200 OK", b"429 X", b"500 X"])
async def test_another_lead_is_not_described(status: bytes) -> None:
    assert (await outcome_of(answering(status, b"{}"), LEAD)).seen is None


async def test_a_request_that_is_no_lead_is_sent_once_and_its_answer_described() -> None:
    async with serve(*answering(b"400 X" + JSON, b'{"message":"Bad"}')) as server:
        seen = await answer_of(server.url, TOKEN, b"{", EGRESS, 20.0)
        assert seen is not None
        assert seen.status == 400
        assert seen.body == {"message": "text"}
        ((head, body),) = server.requests
        assert body == b"{"
        assert f"x-clay-webhook-auth: {TOKEN}".encode() in head
    for script in ([READ, RESET], [RESET]):
        async with serve(*script) as server:
            assert await answer_of(server.url, None, b"{", EGRESS, 20.0) is None
            assert server.connections == 1
