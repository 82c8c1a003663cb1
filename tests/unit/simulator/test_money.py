"""Rows, columns and the two meters."""

from typing import Any

import pytest

from tests.unit.simulator.conftest import SLUG, Bench, Start

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


async def test_credits_are_charged_as_columns_run_not_when_the_webhook_answers(start: Start) -> None:
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
        AT_ONCE + TWO_COLUMNS.replace("credits = 4", "credits = 4\nerror_share = 1.0") + "miss_share = 1.0\n"
    )
    await bench.post({"lead_id": "a"})
    (row,) = await bench.of_kind("row", 1)
    assert (row["state"], row.get("found", 0)) == ("errors", 0)
    (refund,) = await bench.lines("kind=refund")
    assert (refund["column"], refund["credits"]) == ("a", 4)
    assert await meters(bench) == (5_997, 15_000)


async def test_out_of_credits_the_webhook_says_yes_and_nothing_resumes_by_itself(start: Start) -> None:
    bench = await start("[workspaces.acme]\ncredits = 12\n" + AT_ONCE + TWO_COLUMNS)
    for lead in ("paid", "half", "none"):
        assert await bench.post({"lead_id": lead}) == 200
        await bench.settled()
    assert states(await bench.lines("kind=row")) == ["done", "out_of_credits", "out_of_credits"]
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


async def test_a_row_out_of_credits_reports_nothing(start: Start) -> None:
    bench = await start('[workspaces.acme]\ncredits = 0\n[table.callback]\nurl = "http://127.0.0.1:9/"\n' + AT_ONCE)
    await bench.post({})
    await bench.settled()
    assert states(await bench.lines("kind=row")) == ["out_of_credits"]
    assert await bench.lines("kind=callback") == []


async def test_actions_come_back_with_a_month_only(start: Start) -> None:
    bench = await start(
        "[workspaces.acme]\nactions = 1\n"
        '[table.callback]\nurl = "http://127.0.0.1:9/"\nrun_if = "always"\n' + AT_ONCE + TWO_COLUMNS
    )
    for n in range(2):
        await bench.post({"lead_id": str(n)})
    assert {line["status"] for line in await bench.of_kind("callback", 2)} == {"error", "out_of_actions"}
    assert await meters(bench) == (6_000 - 14, 0)
    await bench.control("credits", {"workspace": "acme", "add": 14})
    assert await meters(bench) == (6_000, 0)
    await bench.control("month", {"workspace": "acme"})
    assert await meters(bench) == (12_000, 1)


async def test_auto_run_off_leaves_rows_until_they_are_run(start: Start) -> None:
    bench = await start(AT_ONCE)
    await bench.post({"lead_id": "before"})
    await bench.of_kind("row", 1)
    await bench.control("auto-run", {"webhook": SLUG, "on": False})
    assert await bench.post({"lead_id": "off"}) == 200
    await bench.control("auto-run", {"webhook": SLUG, "on": True})
    await bench.settled()
    assert states(await bench.lines("kind=row"))[1:] == ["not_run"]
    await bench.control("rerun", {"webhook": SLUG, "which": "failed"})
    rows = await bench.of_kind("row", 3)
    assert rows[-1]["lead_id"] == "off"


async def test_running_all_rows_again_pays_again(start: Start) -> None:
    bench = await start(AT_ONCE + TWO_COLUMNS)
    await bench.post({"lead_id": "a"})
    await bench.of_kind("row", 1)
    assert await bench.control("rerun", {"webhook": SLUG, "which": "all"}) == {"rows": 1}
    assert [row["run"] for row in await bench.of_kind("row", 2)] == [1, 2]
    assert (await meters(bench))[0] == 6_000 - 14


@pytest.mark.parametrize(("runs", "paid"), [("before", 7), ("after", 14)])
async def test_auto_dedupe_keeps_the_oldest_row(start: Start, runs: str, paid: int) -> None:
    bench = await start(f'[table]\ndedupe_on = "email"\ndedupe_runs = "{runs}"\n' + AT_ONCE + TWO_COLUMNS)
    for lead in ("first", "second"):
        assert await bench.post({"lead_id": lead, "email": "a@example.com"}) == 200
    rows = {row["lead_id"]: row["state"] for row in await bench.of_kind("row", 2)}
    assert rows == {"first": "done", "second": "deduped"}
    state = await bench.get("/control")
    assert (state["webhooks"][SLUG]["rows"], state["webhooks"][SLUG]["submissions"]) == (1, 2)
    assert state["workspaces"]["acme"]["credits"] == 6_000 - paid


@pytest.mark.parametrize(
    ("value", "deduped"),
    [("a@example.com", 1), ("", 0), (None, 0), ("x" * 200, 1), ("x" * 201, 0)],
)
async def test_auto_dedupe_ignores_blanks_and_long_values(start: Start, value: str | None, deduped: int) -> None:
    bench = await start('[table]\ndedupe_on = "email"\n' + AT_ONCE)
    await bench.post({"email": value})
    await bench.post({"email": value})
    await bench.post({"email": "A@example.com"})  # another case is another value
    assert states(await bench.of_kind("row", 3)).count("deduped") == deduped


async def test_only_the_newest_rows_are_kept(start: Start) -> None:
    bench = await start("kept_rows = 2\n" + AT_ONCE)
    for n in range(5):
        await bench.post({"lead_id": str(n)})
    await bench.of_kind("row", 5)
    assert await bench.control("rerun", {"webhook": SLUG, "which": "all"}) == {"rows": 2}
    assert {row["lead_id"] for row in (await bench.of_kind("row", 7))[5:]} == {"3", "4"}
