"""Each kind of fault as a sender sees it, and the timeline that they are played on."""

import asyncio
import errno
import time
from typing import Any

import aiohttp
import pytest

from stream_app.dev.simulator.chance import Chance, Timeline
from stream_app.dev.simulator.script import Fault
from tests.support.pace import BUSY
from tests.unit.simulator.conftest import SLUG, SimulatorBench, Start, wait_until

QUIET = "[table]\nauto_run = false\n"


def fault(kind: str, more: str = "") -> str:
    return f'{QUIET}[[fault]]\nkind = "{kind}"\n{more}\n'


async def seen(bench: SimulatorBench) -> dict[str, Any]:
    """The one request in the ledger."""
    (line,) = await bench.lines("kind=request")
    assert line["lead_id"] == "a"
    assert line["rows"] == 1
    return line


@pytest.mark.parametrize(
    ("kind", "more", "status"),
    [
        ("status_before", "", 500),
        ("status_before", "status = 503", 503),
        ("unauthorized", "", 401),
        ("forbidden", "", 403),
        ("gone", "", 404),
        ("payment", "", 402),
        ("redirect", "", 302),
        ("rate_limited", 'retry_after = "absent"', 429),
        ("rate_limited", "", 429),
        ("rate_limited", 'retry_after = "seconds"\nretry_after_s = 9', 429),
        ("rate_limited", 'retry_after = "zero"', 429),
        ("rate_limited", 'retry_after = "date"', 429),
    ],
)
async def test_refusing_faults_do_not_accept(
    start: Start,
    kind: str,
    more: str,
    status: int,
) -> None:
    bench = await start(fault(kind, more))
    answered, headers, _ = await bench.answer({"lead_id": "a"})
    assert answered == status
    assert ("Location" in headers) == (kind == "redirect")
    waits = headers.get("Retry-After", "")
    expected = "1" if kind == "rate_limited" else ""
    for form, value in {"seconds": "9", "zero": "0", "absent": ""}.items():
        expected = value if form in more else expected
    assert waits == expected or "date" in more
    assert ("GMT" in waits) == ("date" in more)
    line = await seen(bench)
    assert line["status"] == status
    assert line["accepted"] == 0
    assert line["fault"] == kind


async def test_status_after_accepts_and_answers_an_error(start: Start) -> None:
    bench = await start(fault("status_after", "status = 504"))
    assert await bench.post({"lead_id": "a"}) == 504
    line = await seen(bench)
    assert line["status"] == 504
    assert line["accepted"] == 1


@pytest.mark.parametrize(("more", "accepted"), [("", 1), ("accepted = false", 0)])
async def test_hang_after_read(start: Start, more: str, accepted: int) -> None:
    bench = await start(fault("hang_after_read", more))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bench.post({"lead_id": "a"}), 0.2 * BUSY)
    line = await seen(bench)
    assert line["status"] == "hang"
    assert line["accepted"] == accepted


@pytest.mark.parametrize(
    ("kind", "status", "accepted"),
    [
        ("reset_after_read", "reset", 1),
        ("reset_before_accept", "reset", 0),
        ("garbage", "garbage", 1),
    ],
)
async def test_resets_are_real_ones_and_garbage_is_no_answer(
    start: Start,
    kind: str,
    status: str,
    accepted: int,
) -> None:
    bench = await start(fault(kind))
    with pytest.raises(aiohttp.ClientError) as failure:
        await bench.post({"lead_id": "a"})
    assert (getattr(failure.value, "errno", None) == errno.ECONNRESET) == (status == "reset")
    line = await seen(bench)
    assert line["status"] == status
    assert line["accepted"] == accepted


async def test_slow_answers_late_and_has_accepted_before(start: Start) -> None:
    bench = await start(fault("slow", "delay_s = 0.3"))
    request = asyncio.create_task(bench.post({"lead_id": "a"}))
    (line,) = await bench.of_kind("request", 1)
    assert line["accepted"] == 1
    assert await request == 200
    assert time.time() * 1000 - line["at_ms"] > 290


async def test_a_full_table_says_yes_and_makes_no_row(start: Start) -> None:
    bench = await start("[limits]\nlifetime = 1\n" + fault("table_full"))
    assert await bench.post({"lead_id": "a"}) == 200
    line = await seen(bench)
    assert line["accepted"] == 0
    webhook = (await bench.get("/control"))["webhooks"][SLUG]
    assert webhook["submissions"] == 1, "the webhook took it"
    assert webhook["rows"] == 0, "the webhook took it"
    assert await bench.post({"lead_id": "a"}) == 403, "that was its lifetime"


async def test_refuse_closes_the_port_and_idle_connections(start: Start) -> None:
    bench = await start(QUIET)
    assert await bench.post({}) == 200  # leaves an idle connection in the pool
    await bench.control("faults", {"kind": "refuse"})

    async def is_closed() -> bool:
        return [line["listening"] for line in await bench.lines("kind=listener")] == [False]

    await wait_until(is_closed)
    for _ in range(3):
        with pytest.raises(aiohttp.ClientConnectionError):
            await bench.post({})
    with pytest.raises(aiohttp.ClientConnectorError) as refused:
        await bench.post({})
    assert isinstance(refused.value.os_error, ConnectionRefusedError)
    async with bench.session.delete(
        f"{bench.sim.control_url}/control/faults?kind=refuse",
    ) as response:
        assert await response.json() == {"cleared": 1}
    await bench.of_kind("listener", 2)
    assert await bench.post({}) == 200
    assert len(await bench.lines("kind=request")) == 2


def test_a_fault_is_on_for_as_long_as_it_says() -> None:
    times = iter([10.0, 10.0, 10.19, 10.21, 10.39, 10.41])
    timeline = Timeline([Fault(kind="gone", at_s=0.2, for_s=0.2)], Chance(1), lambda: next(times))
    faults = [timeline.request_fault("acme", "acme--crm", "a", 1) for _ in range(5)]
    assert [fault is not None for fault in faults] == [False, False, True, True, False]


async def test_the_first_fault_that_fits_is_played(start: Start) -> None:
    script = (
        fault("gone", 'webhook = "acme--a"') + '[[fault]]\nkind = "payment"\nworkspace = "acme"\n'
    )
    bench = await start(script)
    assert [await bench.post({}, slug) for slug in ("acme--a", "acme--b", "other--a")] == [
        404,
        402,
        200,
    ]


async def test_share_is_drawn_for_each_try_of_a_lead(start: Start) -> None:
    bench = await start("[limits]\nrate_per_s = 0\n" + fault("status_before", "share = 0.3"))
    statuses = [[await bench.post({"lead_id": f"{lead}"}) for _ in range(4)] for lead in range(100)]
    hits = [status for tries in statuses for status in tries].count(500)
    assert 80 < hits < 160
    assert all(200 in tries for tries in statuses if tries.count(500) < 4)
    assert sum(200 in tries for tries in statuses) > 90


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("status = 503", 503),
        ('status = 503\nworkspace = "acme"', 404),
        ('status = 503\nwebhook = "acme--crm"', 404),
    ],
)
async def test_a_fault_of_the_whole_host_also_answers_requests_that_submit_nothing(
    start: Start,
    more: str,
    status: int,
) -> None:
    bench = await start(fault("status_before", more))
    for method in ("HEAD", "GET"):
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{bench.sim.url}/") as answer,
        ):
            assert answer.status == status
    assert await bench.lines("kind=request") == [], "it is no call"
