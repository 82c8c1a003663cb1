"""The webhook of a workflow: what it answers, what it lacks of a table's, and how its runs end."""

from typing import Any

import aiohttp
import pytest

from stream_app.clay import Egress
from stream_app.clay.client import ClayClient
from stream_app.domain.model.outcome import Accepted, Outcome, RateLimited, WebhookOut
from tests.support.narrow import of_type
from tests.unit.simulator.conftest import SimulatorBench, Start

STREAM = "acme--wfrs_1"
AT_ONCE = "[table.latency]\nscale = 0\n"
QUIET = "[table]\nauto_run = false\n"


def url_of(bench: SimulatorBench, stream: str = STREAM) -> str:
    return f"{bench.sim.url}/v3/tc-workflows/streams/{stream}/webhook"


async def post(
    bench: SimulatorBench,
    payload: object,
    stream: str = STREAM,
) -> tuple[int, Any, Any]:
    """Submit a payload; returns status, headers and JSON."""
    answer: aiohttp.ClientResponse
    async with bench.session.post(url_of(bench, stream), json=payload) as answer:
        return answer.status, answer.headers, await answer.json()


async def sent(bench: SimulatorBench, stream: str = STREAM) -> Outcome:
    """What the client makes of the answer to one lead."""
    async with ClayClient(
        request_timeout_s=20.0,
        connect_timeout_s=5.0,
        pool_timeout_s=5.0,
        max_connections=1,
        keepalive_s=1.0,
        egress=Egress.of(),
    ) as clay:
        # The lead has the words of the answer, too.
        return await clay.send(url_of(bench, stream), None, b'{"lead_id":"a","status":"active"}')


async def test_a_post_is_a_run_that_is_named(start: Start) -> None:
    bench = await start(AT_ONCE)
    status, _, body = await post(bench, {"lead_id": "a"})
    assert status == 202
    assert body["success"] is True
    assert body["workflowRunId"].startswith("wfr_")
    assert isinstance(body["message"], str)
    (row,) = await bench.of_kind("row", 1)
    assert row["lead_id"] == "a"
    assert row["webhook"] == STREAM
    assert row["workspace"] == "acme"
    assert isinstance(await sent(bench), Accepted)


async def test_it_has_no_token_no_rate_and_no_lifetime(start: Start) -> None:
    """Those are stated for tables only."""
    limits = "[limits]\nrate_per_s = 0.001\nburst = 1\nlifetime = 1\n"
    bench = await start(f'{limits}{QUIET}token = "secret"\n')
    assert [(await post(bench, {"lead_id": lead}))[0] for lead in "abc"] == [202] * 3


async def test_a_paused_workflow_says_so_and_goes_on_when_it_is_resumed(start: Start) -> None:
    bench = await start(f"{QUIET}[webhooks.{STREAM}]\nactive = false\n")
    assert (await post(bench, {"lead_id": "a"}))[::2] == (400, {"error": "Stream is not active"})
    outcome = of_type(WebhookOut, await sent(bench))
    assert outcome.cause == "inactive"
    assert "Clay said: " in outcome.text
    await bench.control("webhooks", {"slug": STREAM, "active": True})
    assert isinstance(await sent(bench), Accepted)
    assert [line["accepted"] for line in await bench.lines("kind=request")] == [0, 0, 1]


async def test_an_unknown_workflow_is_not_found(start: Start) -> None:
    bench = await start("auto_create = false\n")
    assert (await post(bench, {}))[::2] == (404, {"error": "Stream not found"})
    assert of_type(WebhookOut, await sent(bench)).cause == "gone"
    async with bench.session.post(url_of(bench).replace("/v3", "")) as answer:
        assert answer.status == 404, "as one that Clay once gave out"


async def test_a_429_says_in_its_body_when_to_come_back(start: Start) -> None:
    bench = await start(f'{QUIET}[[fault]]\nkind = "rate_limited"\nretry_after_s = 7\n')
    status, headers, body = await post(bench, {"lead_id": "a"})
    assert status == 429
    assert body["retryAfter"] == 7
    assert "Retry-After" not in headers
    assert of_type(RateLimited, await sent(bench)).retry_after == "7"


@pytest.mark.parametrize("raw", [b"", b"{", b'"text"'])
async def test_a_body_that_is_no_json_of_inputs_is_refused(start: Start, raw: bytes) -> None:
    bench = await start(QUIET)
    headers = {"content-type": "application/json"}
    async with bench.session.post(url_of(bench), data=raw, headers=headers) as answer:
        assert answer.status == 400
        assert "not active" not in await answer.text()
