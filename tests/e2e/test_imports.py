"""Imports with real processes: followed from the file to the last lead, and cancelled on the board."""

import asyncio
import re
from collections import Counter
from typing import Any

import httpx
import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.on_board import OWN, acted, shown
from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
async def test_an_import_is_followed_from_its_file_to_the_last_lead(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        source = line.directory / "leads of march.csv"
        rows = "".join(f"L{number},w{number % 2},p{number}@example.com\n" for number in range(60))
        source.write_text(f"lead_id,workspace,email\n{rows}L60,w0,not an address\n")
        code, said = await line.run("publish", str(source), "--import-id", "march", "--yes")
        assert code == 1, said
        assert "`stream-app imports march` shows where they are" in said
        line.start("board")
        line.start("worker")
        found = await _until(line, {"accepted_final": 30})
        assert {each["workspace"]: each["published"] for each in found} == {"w0": 30, "w1": 30}
        assert {(each["rows"], each["refused"], each["file"]) for each in found} == {(61, 1, "leads of march.csv")}

        code, said = await line.run("publish", str(source), "--import-id", "march", "--yes")
        assert code == 1, said
        await line.until(lambda: line.last()["duplicate"] == 60, 60, "all of them again")
        await _until(line, {"accepted_final": 30})  # each lead once, whatever came of its copies
        said = await line.done("imports")
        assert said.count("march") == 4, "two imports, each from the same file"


async def _until(line: Pipeline, columns: dict[str, int]) -> list[Any]:
    """Return the two imports as soon as both have these leads."""
    async with asyncio.timeout(120 * BUSY):
        while True:
            code, said = await line.ask("imports", "march")
            found = said["imports"] if code == 0 else []
            if len(found) == 2 and all(each["columns"] == columns for each in found):
                return list(found)
            await asyncio.sleep(0.5)


TOKEN = "a token for people who act: 51d2e9c4"
LEADS = 200


@pytest.mark.slow
async def test_what_is_not_at_clay_ends_as_suppressed_and_the_page_counts_it(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPERATOR_TOKEN", TOKEN)
    operators = 'operator_token_env = "OPERATOR_TOKEN"'
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=2, board=operators, rate_per_s=2) as line:
        source = line.directory / "wrong list.csv"
        rows = "".join(f"L{number},w0,p{number}@example.com\n" for number in range(LEADS))
        source.write_text(f"lead_id,workspace,email\n{rows}")
        board, worker = line.start("board"), line.start("worker")
        await line.done("publish", str(source), "--import-id", "march", "--yes")
        # 200 leads take 100 s at 2 a second: they are under way.
        await line.until(lambda: line.last()["accepted"] >= 3, 90, "some are at Clay")
        address = f"http://127.0.0.1:{line.board_port}"
        async with httpx.AsyncClient(base_url=address, headers=OWN, timeout=60, follow_redirects=True) as client:
            await shown(client, "/board/login", "Token")
            await client.post("/board/login", data={"token": TOKEN, "who": "jane"})
            page = "/board/imports?workspace=w0&id=march"
            await shown(client, page, "Cancel the import")
            form = "/board/imports/act/cancel?workspace=w0&id=march"
            answer = await acted(client, form, why="the wrong list", typed="w0")
            await shown(client, str(answer.url), "applied")
            await line.until_over(LEADS, 90)
            ended = Counter((history[-1].status, history[-1].reason) for history in line.histories.values())
            at_clay = line.summary()["leads"]
            suppressed = LEADS - len(at_clay)
            assert 3 <= len(at_clay) < LEADS
            assert set(at_clay.values()) == {1}
            assert ended == {("accepted", ""): len(at_clay), ("suppressed", "cancelled"): suppressed}

            await shown(client, page, f"{LEADS} of {LEADS} leads")
            text = (await client.get(page)).text
            columns = dict(
                re.findall(r'data-label="Leads" class="num"><a class="count" href="[^"]*column=(\w+)">(\d+)<', text)
            )
            assert columns == {"accepted_final": str(len(at_clay)), "rejected": str(suppressed)}
            assert "Cancel the import" not in text, "nothing is left to cancel"
        code, said = await line.run("lanes", "log")
        assert (code, "the wrong list" in said) == (0, True), said
        await line.books_balance()
        line.check_histories()
        for process in (board, worker):
            assert await line.stop(process) == 0
        log = line.logs[board.pid].read_text()
        assert ("board_login" in log, TOKEN in log) == (True, False)
