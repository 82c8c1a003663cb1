"""What Clay's own documentation says of webhook and HTTP column: one test for each fact.

The end of a name is the page, at https://university.clay.com/docs/: `clay_webhook_guide` is
webhook-integration-guide, `clay_http_api_guide` is http-api-integration-overview, and
`clay_table_settings` is table-management-settings.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from aiohttp import web

from stream_app.dev.simulator import ScriptError, parse_script
from stream_app.dev.simulator.script import ClayLimits, ClayPlan
from stream_app.dev.simulator.world import WorkspaceState
from tests.support.raw_server import HANG, READ, RawServer, serve
from tests.unit.simulator.conftest import SLUG, SimulatorBench, Start

QUIET = "[table]\nauto_run = false\n"
SLOW_REFILL = "[limits]\nrate_per_s = 0.001\n"
AT_ONCE = "[table.latency]\nscale = 0\n"
ONE_COLUMN = '[[table.columns]]\nname = "title"\ncredits = 1\n'
ROW = AT_ONCE + ONE_COLUMN


# ------------------------------------------------------------------------------------- the webhook


async def test_rate_is_10_a_second_with_a_burst_of_20__clay_webhook_guide(start: Start) -> None:
    limits = parse_script("").limits
    assert limits.rate_per_s == 10
    assert limits.burst == 20
    bench = await start(QUIET + SLOW_REFILL)
    assert [await bench.post({}) for _ in range(21)] == [200] * 20 + [429]


async def test_rate_is_shared_by_the_webhooks_of_a_workspace__clay_webhook_guide(
    start: Start,
) -> None:
    bench = await start(QUIET + SLOW_REFILL)
    assert [await bench.post({}, f"acme--{n % 2}") for n in range(21)] == [200] * 20 + [429]
    assert await bench.post({}, "other--1") == 200


async def test_each_post_is_one_request_of_the_rate__clay_webhook_guide(start: Start) -> None:
    bench = await start(QUIET + SLOW_REFILL + "burst = 2\n")
    assert await bench.post([{}, {}, {}]) == 200
    assert await bench.post(None, raw=b"{") == 400
    assert await bench.post({}) == 429


async def test_429_says_retry_after_1_in_documented_words__clay_webhook_guide(
    start: Start,
) -> None:
    bench = await start(QUIET + SLOW_REFILL + "burst = 1\n")
    await bench.post({})
    status, headers, body = await bench.answer({})
    assert status == 429
    assert headers["Retry-After"] == "1"
    assert json.loads(body) == {
        "type": "TooManyRequests",
        "message": "Too many requests. Wait a bit and retry.",
        "details": None,
    }


async def test_429_drops_the_record__clay_webhook_guide(start: Start) -> None:
    bench = await start(QUIET + SLOW_REFILL + "burst = 1\n")
    for lead in ("taken", "dropped"):
        await bench.post({"lead_id": lead})
    (row,) = await bench.of_kind("row", 1)
    assert row["lead_id"] == "taken"
    webhook = (await bench.get("/control"))["webhooks"][SLUG]
    assert webhook["rows"] == 1
    assert webhook["submissions"] == 1


async def test_full_webhook_is_403__clay_webhook_guide(start: Start) -> None:
    assert parse_script("").limits.lifetime == 50_000
    bench = await start(f"{QUIET}[limits]\nlifetime = 3\n")
    assert [await bench.post({}) for _ in range(3)] == [200] * 3
    status, _, body = await bench.answer({})
    assert status == 403
    assert "Record limit reached for webhook" in body
    assert await bench.post({}, "acme--other") == 200, "each webhook has its own count"


async def test_only_accepted_submissions_count__clay_webhook_guide(start: Start) -> None:
    bench = await start(f'[limits]\nlifetime = 2\n{QUIET}token = "right"\n')
    assert await bench.post({}) == 401
    assert await bench.post(None, raw=b"{", token="right") == 400
    assert [await bench.post({}, token="right") for _ in range(3)] == [200, 200, 403]


async def test_with_auto_delete_there_is_no_lifetime__clay_webhook_guide(start: Start) -> None:
    bench = await start(f"{QUIET}[limits]\nlifetime = 0\nrate_per_s = 0\n")
    assert {await bench.post({}) for _ in range(30)} == {200}


async def test_an_array_is_one_row__clay_webhook_guide(start: Start) -> None:
    bench = await start(ROW)
    assert await bench.post([{"lead_id": "a"}, {"lead_id": "b"}, 3]) == 200
    (line,) = await bench.of_kind("request", 1)
    assert line["accepted"] == 1
    assert "lead_id" not in line
    (row,) = await bench.of_kind("row", 1)
    assert row["state"] == "done"
    assert (await bench.get("/control"))["webhooks"][SLUG]["submissions"] == 1


async def test_nested_objects_are_taken__clay_webhook_guide(start: Start) -> None:
    bench = await start(QUIET)
    assert await bench.post({"lead_id": "a", "contact": {"name": "Jane", "all": [1, {}]}}) == 200


@pytest.mark.parametrize("content_type", [None, "text/plain"])
async def test_without_its_content_type_it_is_400__clay_webhook_guide(
    start: Start,
    content_type: str | None,
) -> None:
    bench = await start(QUIET)
    assert (await bench.answer({}, content_type=content_type))[0] == 400
    assert (await bench.answer({}, content_type="application/json; charset=utf-8"))[0] == 200


async def test_bad_json_is_400__clay_webhook_guide(start: Start) -> None:
    bench = await start(QUIET)
    assert await bench.post(None, raw=b'{"lead_id": "a"') == 400


async def test_more_than_100_kb_is_400__clay_webhook_guide(start: Start) -> None:
    bench = await start(QUIET)
    assert await bench.post({"about": "x" * 100_001}) == 400
    assert await bench.post({"about": "x" * 99_000}) == 200


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("wrong", 401), ("right", 200)])
async def test_missing_or_wrong_token_is_401__clay_webhook_guide(
    start: Start,
    token: str | None,
    status: int,
) -> None:
    bench = await start('[webhooks.x]\ntoken = "right"\n')
    assert await bench.post({}, "x", token=token) == status


async def test_what_is_refused_makes_no_row_and_costs_nothing__clay_webhook_guide(
    start: Start,
) -> None:
    bench = await start('[limits]\nlifetime = 1\n[table]\ntoken = "right"\n' + ROW)
    assert await bench.post({"lead_id": "a"}, token="right") == 200
    await bench.of_kind("row", 1)
    spent = len(await bench.lines("kind=charge"))
    assert await bench.post({"lead_id": "b"}) == 401
    assert await bench.post({"lead_id": "c"}, token="right") == 403
    assert await bench.post(None, raw=b"no", token="right") == 400
    await bench.settled()
    assert len(await bench.lines("kind=row")) == 1
    assert len(await bench.lines("kind=charge")) == spent


# ------------------------------------------------------------------------------------ auto-dedupe


async def test_auto_dedupe_keeps_the_oldest_and_no_blanks__clay_table_settings(
    start: Start,
) -> None:
    bench = await start('[table]\ndedupe_on = "email"\ndedupe_runs = "before"\n' + ROW)
    long = "x" * 201
    for lead, email in enumerate(["a@b.c", "a@b.c", "", "", long, long]):
        assert await bench.post({"lead_id": f"{lead}", "email": email}) == 200
    await bench.settled()
    states = {line["lead_id"]: line["state"] for line in await bench.lines("kind=row")}
    assert states == {"0": "done", "1": "deduped"} | dict.fromkeys("2345", "done")


# -------------------------------------------------------------------------------- the HTTP column


class Receiver:
    """Answers each call with the next of some statuses, the last of them from then on."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses)
        self.at_s: list[float] = []
        self.url = ""

    async def answer(self, _: web.Request) -> web.Response:
        self.at_s.append(time.monotonic())
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        return web.Response(status=status)


@asynccontextmanager
async def answering(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(*statuses)
    app = web.Application()
    app.router.add_post("/", receiver.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        receiver.url = f"http://{host}:{port}/"
        yield receiver
    finally:
        await runner.cleanup()


async def reported(
    start: Start,
    url: str,
    settings: str = "",
) -> tuple[SimulatorBench, list[int | str]]:
    """Run a row, and return how its calls were answered."""
    bench = await start(f"[table.callback]\n{settings}\n{ROW}")
    await bench.post({"lead_id": "a", "callback_url": url})
    await bench.of_kind("row", 1)
    await bench.settled()
    lines = await bench.lines("kind=callback")
    assert [line["attempt"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line.get("repeats", False) for line in lines] == [True] * (len(lines) - 1) + [False]
    return bench, [line.get("error", line["status"]) for line in lines]


@pytest.mark.parametrize("status", [408, 413, 429])
async def test_it_repeats_once_after_408_413_429__clay_http_api_guide(
    start: Start,
    status: int,
) -> None:
    async with answering(status) as receiver:
        assert (await reported(start, receiver.url))[1] == [status, status]


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500, 502, 503, 504])
async def test_it_repeats_no_other_status_by_default__clay_http_api_guide(
    start: Start,
    status: int,
) -> None:
    async with answering(status) as receiver:
        assert (await reported(start, receiver.url))[1] == [status]


async def test_it_repeats_after_econnrefused__clay_http_api_guide(start: Start) -> None:
    _, calls = await reported(start, "http://127.0.0.1:1/")
    assert calls == ["ECONNREFUSED", "ECONNREFUSED"]


async def test_it_repeats_after_econnreset__clay_http_api_guide(start: Start) -> None:
    async with serve(READ) as receiver:
        assert (await reported(start, receiver.url))[1] == ["ECONNRESET", "ECONNRESET"]


async def silence(start: Start, settings: str) -> tuple[RawServer, list[int | str]]:
    async with serve(READ, HANG) as receiver:
        return receiver, (await reported(start, receiver.url, f"timeout_s = 0.2\n{settings}"))[1]


async def test_it_repeats_after_etimedout__clay_http_api_guide(start: Start) -> None:
    receiver, calls = await silence(start, "")
    assert calls == ["ETIMEDOUT", "ETIMEDOUT"]
    assert len(receiver.requests) == 2


async def test_a_slow_answer_is_perhaps_no_etimedout(start: Start) -> None:
    _, calls = await silence(start, "repeats_timeouts = false")
    assert calls == ["ECONNABORTED"]


async def test_a_host_without_an_address_is_not_repeated__clay_http_api_guide(
    start: Start,
) -> None:
    _, calls = await reported(start, "http://clay.invalid/")
    assert len(calls) == 1


async def test_it_repeats_at_once__clay_http_api_guide(start: Start) -> None:
    async with answering(429) as receiver:
        bench, calls = await reported(start, receiver.url, "well_set = true")
        assert calls == [429] * 6
        lines = await bench.lines("kind=callback")
    for before, line in pairwise(lines):
        ended_ms = line["at_ms"] - line.get("ms", 0)
        assert ended_ms - before["at_ms"] < 500, "no delay of a second, on a busy machine either"


async def test_it_repeats_until_it_is_answered__clay_http_api_guide(start: Start) -> None:
    async with answering(429, 200) as receiver:
        assert (await reported(start, receiver.url))[1] == [429, 200]


async def test_5_retries_are_the_most__clay_http_api_guide(start: Start) -> None:
    async with answering(429) as receiver:
        assert (await reported(start, receiver.url, "retry = { most = 5 }"))[1] == [429] * 6
    with pytest.raises(ScriptError, match="most"):
        parse_script("table.callback.retry.most = 6")


async def test_lists_that_are_set_replace_the_defaults__clay_http_api_guide(start: Start) -> None:
    async with answering(503, 429, 200) as receiver:
        calls = (await reported(start, receiver.url, "retry = { most = 5, statuses = [503] }"))[1]
        assert calls == [503, 429]
    _, calls = await reported(start, "http://127.0.0.1:1/", 'retry = { errors = ["ETIMEDOUT"] }')
    assert calls == ["ECONNREFUSED"]


async def test_retry_can_be_switched_off__clay_http_api_guide(start: Start) -> None:
    async with answering(429) as receiver:
        assert (await reported(start, receiver.url, "retry = { enabled = false }"))[1] == [429]


async def test_response_timeout_is_below_100_s__clay_http_api_guide() -> None:
    with pytest.raises(ScriptError, match="timeout_s"):
        parse_script("table.callback.timeout_s = 100")
    assert parse_script("table.callback.timeout_s = 99.9").table.callback.waits_s == 99.9


async def test_100_calls_a_second_go_outward_from_a_workspace__clay_webhook_guide(
    start: Start,
) -> None:
    assert parse_script("").limits.outward_per_s == 100
    rate_per_s = 20
    async with answering(200) as receiver:
        bench = await start(
            f"[limits]\nrate_per_s = 0\noutward_per_s = {rate_per_s}\n"
            f'[table.callback]\nrun_if = "always"\n{ROW}',
        )
        began_s = time.monotonic()
        lead = {"callback_url": receiver.url}
        await asyncio.gather(*(bench.post(lead, f"acme--{n % 2}") for n in range(12)))
        await bench.settled()
        assert len(receiver.at_s) == 12
        assert receiver.at_s[-1] - began_s >= 10 / rate_per_s, "two webhooks share it"


def test_each_workspace_has_its_own_100_calls__clay_webhook_guide() -> None:
    first = WorkspaceState("a", ClayPlan(), 0, 0, 0, 0)
    second = WorkspaceState("b", ClayPlan(), 0, 0, 0, 0)
    limits = ClayLimits()
    assert [first.outward_in_s(limits, 5.0) for _ in range(3)] == pytest.approx([0, 0.01, 0.02])
    assert second.outward_in_s(limits, 5.0) == 0
    assert first.outward_in_s(limits, 9.0) == 0, "what was not used is gone"


async def test_a_failed_call_can_be_run_again_alone__clay_http_api_guide(start: Start) -> None:
    async with answering(503, 200) as receiver:
        bench, calls = await reported(start, receiver.url)
        assert calls == [503]
        spent = len(await bench.lines("kind=charge"))
        again = {"webhook": SLUG, "which": "unreported"}
        assert await bench.control("rerun", again) == {"rows": 1}
        await bench.settled()
        lines = await bench.lines("kind=callback")
        assert [line["status"] for line in lines] == [503, 200]
        assert len(await bench.lines("kind=charge")) == spent + 1, "only the call is paid again"
        assert await bench.control("rerun", again) == {"rows": 0}
        await bench.control("rerun", {"webhook": SLUG, "which": "all"})
        await bench.settled()
        assert len(receiver.at_s) == 3, "a new run is reported, too"


async def test_each_call_costs_one_action__clay_http_api_guide(start: Start) -> None:
    async with answering(429, 200) as receiver:
        bench, calls = await reported(start, receiver.url)
    assert len(calls) == 2
    assert (await bench.get("/control"))["workspaces"]["acme"]["actions"] == 15_000 - 2
