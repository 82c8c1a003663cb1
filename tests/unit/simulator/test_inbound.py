"""The webhook: what it takes, what it refuses, and with which status."""

import asyncio
from email.utils import parsedate_to_datetime

import pytest

from tests.unit.simulator.conftest import SLUG, Start

QUIET = "[table]\nauto_run = false\n"


async def test_accepts_an_object_and_answers_nothing_to_rely_on(start: Start) -> None:
    bench = await start(QUIET)
    bodies = set()
    for n in range(12):
        status, _, body = await bench.answer({"lead_id": "a", "pad": "x" * n})
        assert status == 200
        bodies.add(body)
    assert len(bodies) > 3


async def test_unknown_slug_is_404_only_without_auto_create(start: Start) -> None:
    bench = await start("auto_create = false\n[webhooks.known]\n")
    assert await bench.post({}, "known") == 200
    assert await bench.post({}, "unknown") == 404
    assert await (await start("")).post({}, "unknown") == 200


async def test_auto_created_webhook_belongs_to_the_workspace_in_its_slug(start: Start) -> None:
    bench = await start(QUIET)
    await bench.post({}, "acme--crm--eu")
    await bench.post({}, "plain")
    await bench.post({}, "--odd")
    webhooks = (await bench.get("/control"))["webhooks"]
    assert {slug: webhook["workspace"] for slug, webhook in webhooks.items()} == {
        "acme--crm--eu": "acme",
        "plain": "default",
        "--odd": "default",
    }


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("wrong", 401), ("right", 200)])
async def test_token(start: Start, token: str | None, status: int) -> None:
    bench = await start('[webhooks.x]\ntoken = "right"\n')
    assert await bench.post({}, "x", token=token) == status


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\xff\xfe", 400),
        (b'{"a": "\xff"}', 400),
        (b"", 400),
        (b'{"a": NaN}', 400),
        (b"[" * 10_000 + b"]" * 10_000, 400),
        (b'"text"', 422),
        (b"7", 422),
        (b"null", 422),
        (b"[]", 422),
        (b'[{"a": 1}, 2]', 422),
        (b'{"a": 123456789012345678901234567890, "b": {"c": []}}', 200),
    ],
)
async def test_bodies(start: Start, raw: bytes, status: int) -> None:
    bench = await start(QUIET)
    assert await bench.post(None, raw=raw) == status
    assert (await bench.lines("kind=request"))[0]["accepted"] == (1 if status == 200 else 0)


async def test_payload_limit_is_exact(start: Start) -> None:
    bench = await start(QUIET)
    fits = b'{"a":"' + b"x" * (100_000 - 8) + b'"}'
    assert len(fits) == 100_000
    assert await bench.post(None, raw=fits) == 200
    assert await bench.post(None, raw=fits + b" ") == 413
    assert await bench.post(None, raw=b" " * 16_000_001) == 413


async def test_an_array_becomes_rows_and_each_counts(start: Start) -> None:
    bench = await start(QUIET + "[limits]\nrate_per_s = 0.001\nburst = 4\n")
    assert await bench.post([{"lead_id": "a", "delivery_id": "1"}, {"lead_id": "b"}, {}]) == 200
    assert await bench.post([{}, {}]) == 429
    line = (await bench.lines("kind=request"))[0]
    assert (line["rows"], line["accepted"]) == (3, 3)
    assert line["elements"] == [["a", "1"], ["b", None], [None, None]]
    assert (await bench.get("/control"))["webhooks"][SLUG]["submissions"] == 3


async def test_rate_is_shared_by_a_workspace_and_not_between_them(start: Start) -> None:
    bench = await start(QUIET + "[limits]\nrate_per_s = 0.001\n")
    statuses = [await bench.post({}, f"acme--{n % 2}") for n in range(21)]
    assert statuses == [200] * 20 + [429]
    assert await bench.post({}, "other--1") == 200


async def test_rate_refills(start: Start) -> None:
    bench = await start(QUIET + "[limits]\nrate_per_s = 20\nburst = 1\n")
    assert await bench.post({}) == 200
    assert await bench.post({}) == 429
    await asyncio.sleep(0.06)  # the refill of one record takes 50 ms of real time
    assert await bench.post({}) == 200


async def test_rate_can_be_switched_off_live(start: Start) -> None:
    bench = await start(QUIET + "[limits]\nrate_per_s = 0.001\nburst = 1\n")
    assert [await bench.post({}) for _ in range(2)] == [200, 429]
    await bench.control("limits", {"rate_per_s": 0})
    assert [await bench.post({}) for _ in range(30)] == [200] * 30


@pytest.mark.parametrize("form", ["absent", "seconds", "date", "zero"])
async def test_retry_after_forms(start: Start, form: str) -> None:
    limits = f'rate_per_s = 0.001\nburst = 1\nretry_after = "{form}"\nretry_after_s = 7\n'
    bench = await start(QUIET + "[limits]\n" + limits)
    await bench.post({})
    status, headers, _ = await bench.answer({})
    assert status == 429
    if form == "date":
        wait_s = (
            parsedate_to_datetime(headers["Retry-After"]) - parsedate_to_datetime(headers["Date"])
        ).total_seconds()
        assert 6 <= wait_s <= 8
    else:
        assert headers.get("Retry-After") == {"absent": None, "seconds": "7", "zero": "0"}[form]


async def test_lifetime_ends_silently(start: Start) -> None:
    bench = await start("[limits]\nlifetime = 3\n[table.latency]\nscale = 0\n")
    assert [await bench.post({"lead_id": str(n)}) for n in range(5)] == [200] * 5
    assert await bench.post([{}, {}]) == 200
    requests = await bench.lines("kind=request")
    assert [line["accepted"] for line in requests] == [1, 1, 1, 0, 0, 0]
    assert [line.get("full", False) for line in requests] == [False] * 3 + [True] * 3
    await bench.settled()
    assert len(await bench.lines("kind=row")) == 3


async def test_lifetime_can_end_with_403_and_belongs_to_one_webhook(start: Start) -> None:
    bench = await start(QUIET + "[limits]\nlifetime = 2\nlifetime_status = 403\n")
    assert await bench.post([{"lead_id": lead} for lead in "abc"]) == 200
    assert (await bench.get("/ledger/summary"))["leads"] == {"a": 1, "b": 1}
    assert await bench.post({}) == 403
    assert await bench.post({}, "acme--next") == 200
    assert [line["accepted"] for line in await bench.lines("kind=request")] == [2, 0, 1]
