"""The webhook: what it takes and refuses, what becomes of the rows, and the two meters."""

from typing import Any

import pytest

from tests.unit.simulator.conftest import SLUG, Bench, Start

QUIET = "[table]\nauto_run = false\n"


async def test_a_webhook_is_created_in_the_workspace_of_its_slug_unless_that_is_switched_off(
    start: Start,
) -> None:
    bench = await start("auto_create = false\n[webhooks.known]\n")
    assert [await bench.post({}, slug) for slug in ("known", "unknown")] == [200, 404]
    bench = await start(QUIET)
    for slug in ("acme--crm--eu", "plain", "--odd"):
        assert await bench.post({}, slug) == 200
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
    limits = '[limits]\nrate_per_s = 0.001\nburst = 4\nretry_after = "seconds"\nretry_after_s = 7\n'
    bench = await start(QUIET + limits)
    assert await bench.post([{"lead_id": "a", "delivery_id": "1"}, {"lead_id": "b"}, {}]) == 200
    status, headers = await bench.answer([{}, {}])
    assert status == 429
    assert headers["Retry-After"] == "7"
    line = (await bench.lines("kind=request"))[0]
    assert line["rows"] == 3
    assert line["accepted"] == 3
    assert line["elements"] == [["a", "1"], ["b", None], [None, None]]
    assert (await bench.get("/control"))["webhooks"][SLUG]["submissions"] == 3


async def test_rate_is_shared_by_a_workspace_and_not_between_them(start: Start) -> None:
    bench = await start(QUIET + "[limits]\nrate_per_s = 0.001\n")
    statuses = [await bench.post({}, f"acme--{n % 2}") for n in range(21)]
    assert statuses == [200] * 20 + [429]
    assert await bench.post({}, "other--1") == 200


async def test_lifetime_ends_silently(start: Start) -> None:
    bench = await start("[limits]\nlifetime = 3\n[table.latency]\nscale = 0\n")
    assert [await bench.post({"lead_id": str(n)}) for n in range(5)] == [200] * 5
    assert await bench.post([{}, {}]) == 200
    requests = await bench.lines("kind=request")
    assert [line["accepted"] for line in requests] == [1, 1, 1, 0, 0, 0]
    assert [line.get("full", False) for line in requests] == [False] * 3 + [True] * 3
    await bench.settled()
    assert len(await bench.lines("kind=row")) == 3


AT_ONCE = "[table.latency]\nscale = 0\n"
TWO_COLUMNS = """
[[table.columns]]
name = "a"
credits = 4
[[table.columns]]
name = "b"
credits = 3
"""


async def meters(bench: Bench) -> tuple[int, int]:
    workspace = (await bench.get("/control"))["workspaces"]["acme"]
    return workspace["credits"], workspace["actions"]


def states(rows: list[dict[str, Any]]) -> list[str]:
    return [row["state"] for row in rows]


async def test_credits_are_charged_as_columns_run_not_when_the_webhook_answers(
    start: Start,
) -> None:
    latency = "[table.latency]\nmedian_s = 0.2\np95_s = 0.2\nmin_s = 0\nslow_share = 0\n"
    bench = await start(latency + TWO_COLUMNS)
    await bench.post({"lead_id": "a"})
    assert await meters(bench) == (5_996, 15_000)
    await bench.of_kind("row", 1)
    assert await meters(bench) == (5_993, 15_000)
    first, second = await bench.lines("kind=charge")
    assert second["at_ms"] - first["at_ms"] >= 90


async def test_errors_are_refunded_and_misses_are_not(start: Start) -> None:
    bench = await start(
        AT_ONCE
        + TWO_COLUMNS.replace("credits = 4", "credits = 4\nerror_share = 1.0")
        + "miss_share = 1.0\n",
    )
    await bench.post({"lead_id": "a"})
    (row,) = await bench.of_kind("row", 1)
    assert row["state"] == "errors"
    assert row.get("found", 0) == 0
    (refund,) = await bench.lines("kind=refund")
    assert refund["column"] == "a"
    assert refund["credits"] == 4
    assert await meters(bench) == (5_997, 15_000)


async def test_out_of_credits_the_webhook_says_yes_and_nothing_resumes_by_itself(
    start: Start,
) -> None:
    callback = '[table.callback]\nurl = "http://127.0.0.1:9/"\n'
    bench = await start("[workspaces.acme]\ncredits = 12\n" + callback + AT_ONCE + TWO_COLUMNS)
    for lead in ("paid", "half", "none"):
        assert await bench.post({"lead_id": lead}) == 200
        await bench.settled()
    assert states(await bench.lines("kind=row")) == ["done", "out_of_credits", "out_of_credits"]
    assert len(await bench.lines("kind=callback")) == 1, "a row out of credits reports nothing"
    assert (await meters(bench))[0] == 1
    seq = bench.sim.ledger.seq

    await bench.control("credits", {"workspace": "acme", "add": 100})
    assert await bench.post({"lead_id": "next"}) == 200
    await bench.settled()
    assert [line["lead_id"] for line in await bench.lines(f"since={seq}&kind=row")] == ["next"]

    assert await bench.control("rerun", {"webhook": SLUG}) == {"rows": 2}
    await bench.settled()
    assert states(await bench.lines(f"since={seq}&kind=row")) == ["done"] * 3
    assert (await meters(bench))[0] == 112 - 4 * 7  # the cell that was filled is not paid again
