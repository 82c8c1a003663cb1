"""The webhook: what it takes and refuses, what becomes of the rows, and the two meters."""

from typing import Any

import pytest

from tests.unit.simulator.conftest import SLUG, SimulatorBench, Start

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


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\xff\xfe", 400),
        (b'{"a": "\xff"}', 400),
        (b"", 400),
        (b'{"a": NaN}', 400),
        (b"[" * 10_000 + b"]" * 10_000, 400),
        (b'"text"', 400),
        (b"7", 400),
        (b"null", 400),
        (b"[]", 200),
        (b'[{"a": 1}, 2]', 200),
        (b'{"a": 123456789012345678901234567890, "b": {"c": []}}', 200),
    ],
)
async def test_bodies(start: Start, raw: bytes, status: int) -> None:
    bench = await start(QUIET)
    assert await bench.post(None, raw=raw) == status
    assert (await bench.lines("kind=request"))[0]["accepted"] == (1 if status == 200 else 0)


@pytest.mark.parametrize(("unknown", "status"), [("", 404), ("unknown_status = 403", 403)])
@pytest.mark.parametrize(("taken", "accepted"), [("", 200), ("accepted_status = 202", 202)])
async def test_what_is_not_documented_can_be_switched(
    start: Start,
    unknown: str,
    status: int,
    taken: str,
    accepted: int,
) -> None:
    limits = f"auto_create = false\n[limits]\n{unknown}\n{taken}\n"
    bench = await start(f"{limits}{QUIET}[webhooks.known]\n")
    assert await bench.post({}, "unknown") == status
    assert await bench.post({}, "known") == accepted


@pytest.mark.parametrize(("count", "left"), [("false", [200, 200, 403]), ("true", [200, 403, 403])])
async def test_refused_submissions_count_for_the_lifetime_by_a_setting(
    start: Start,
    count: str,
    left: list[int],
) -> None:
    bench = await start(f"{QUIET}[limits]\nlifetime = 2\nrefused_count = {count}\n")
    assert await bench.post(None, raw=b"{") == 400
    assert [await bench.post({}) for _ in left] == left


async def test_payload_limit_is_exact(start: Start) -> None:
    bench = await start(QUIET)
    fits = b'{"a":"' + b"x" * (100_000 - 8) + b'"}'
    assert len(fits) == 100_000
    assert await bench.post(None, raw=fits) == 200
    assert await bench.post(None, raw=fits + b" ") == 400
    assert await bench.post(None, raw=b" " * 16_000_001) == 400


AT_ONCE = "[table.latency]\nscale = 0\n"
TWO_COLUMNS = """
[[table.columns]]
name = "a"
credits = 4
[[table.columns]]
name = "b"
credits = 3
"""


async def meters(bench: SimulatorBench) -> tuple[int, int]:
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
    callback = '[table.callback]\nurl = "http://127.0.0.1:9/"\nretry = { enabled = false }\n'
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
