"""A replay from the board in a browser, on real Kafka: its price, its progress, and a board that is killed."""

import asyncio
import os
import re
from collections import Counter

import pytest
from playwright.async_api import Error, Page, async_playwright, expect

from stream_app.dev.kafka import Broker
from tests.board.serving import chromium
from tests.e2e.behind import eventually
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import CONFIG, LANE

pytestmark = pytest.mark.timeout(300)


TOKEN = "operators of the board, only for tests"
CAUSES = (503, 422, 400)
WITHIN_MS = 60_000


@pytest.mark.parametrize(
    "each",
    [pytest.param(20, marks=pytest.mark.slow, id="short"), pytest.param(170, marks=pytest.mark.long, id="long")],
)
async def test_exactly_one_cause_is_sent_back_although_the_board_is_killed(
    kafka: Broker, namespace: str, each: int
) -> None:
    os.environ["BOARD_OPERATORS"] = TOKEN
    budget = LANE + "[workspaces.{name}.budget]\ncredits_per_day = 20000\n"
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        config=f"{CONFIG}rate_share = 0.01\n",
        lane=budget,
        board='operator_token_env = "BOARD_OPERATORS"',
    ) as line:
        assert (await line.run("replay", "pause", "--why", "only what is ordered"))[0] == 0
        worker, replay, server = line.start("worker"), line.start("replay"), line.start("board")
        for number, status in enumerate(CAUSES):
            line.control("DELETE", "/control/faults")
            line.control("POST", "/control/faults", {"kind": "status_before", "status": status})
            await line.publish(line.lead(number * each + n, "w0") for n in range(each))
            await dead_letters(line, (number + 1) * each)
        line.control("DELETE", "/control/faults")
        await rate(line, 1)  # the replay sends a dead letter every 100 s: it is certainly in the middle
        board = f"http://127.0.0.1:{line.board_port}/board"
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = await browser.new_page()
            page.set_default_timeout(WITHIN_MS)
            await open_board(page, f"{board}/login")
            await page.fill("#token", TOKEN)
            await page.fill("#who", "jane")
            await page.get_by_role("button", name="Log in").click()
            await shows(page, f"{board}/dead", f"{2 * each} open dead letters")

            # One cause, its price, and the button that says both.
            await page.get_by_role("link", name="Plan a replay of http_503").click()
            await page.get_by_role("button", name="Plan").click()
            send = page.get_by_role("button", name=f"Send {each} dead letters for up to {20 * each:,} credits")
            await send.wait_for()
            content = page.locator("#content")
            await expect(content).to_contain_text(f"about {6 * each:,}")
            await expect(content).to_contain_text("20,000 left")
            await page.fill("#why", "Clay is back")
            await send.click()
            await page.wait_for_url(re.compile(r".*/board/replays/r-[0-9a-f]+"))
            url = page.url
            await shows(page, url, f"1 of {each} dead letters sent back")

            # Another process goes on with the page. Its read model is empty at first.
            server.kill()
            await asyncio.to_thread(server.wait, 30)
            server = line.start("board")
            await shows(page, url, f"of {each} dead letters sent back")
            await expect(content).to_contain_text("Clay is back")
            await page.get_by_role("link", name="Stop", exact=True).click()
            await expect(content).to_contain_text(f"of {each} dead letters are sent")
            await page.fill("#why", "faster")
            await page.get_by_role("button", name="Stop it").click()
            await shows(page, url, "stopped after")
            await rate(line, 1_000)
            await page.get_by_role("link", name="Resume", exact=True).click()
            await page.fill("#why", "the rate is up")
            await page.get_by_role("button", name="Resume it").click()
            await shows(page, url, f"{each} of {each} dead letters sent back")
            await shows(page, url, "done")
            await shows(page, f"{board}/dead", "Sent back by operators")
            await shows(page, f"{board}/audit", "Clay is back")
            await browser.close()

        await line.until(lambda: line.last()["accepted"] == each, 60, "those of the cause are accepted")
        assert sum(line.last().values()) == 3 * each
        sent = Counter(dict(record.headers)["stream-app-lead-id"] for record in await line.read(retry(line)))
        assert sent == {f"lead-{number}".encode(): 1 for number in range(each)}, "exactly the leads of the cause, once"
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in range(each)}
        line.check_histories()
        for process in (server, replay, worker):
            assert await line.stop(process) == 0


async def dead_letters(line: Pipeline, wanted: int) -> None:
    """Wait until there are so many dead letters."""

    async def too_few() -> int:
        return wanted - len(await line.read(line.settings.names.dlq))

    await eventually(too_few, 90)


async def rate(line: Pipeline, per_s: int) -> None:
    """Set the rate of the lane. Replays use a hundredth of it."""
    await line.done("lanes", "rate", "w0", "--per-second", str(per_s), "--why", "test")


def retry(line: Pipeline) -> str:
    return line.settings.names.retry


async def open_board(page: Page, url: str) -> None:
    """Open a page as soon as the board answers."""

    async def silent() -> str:
        try:
            await page.goto(url)
        except Error as error:
            return str(error)
        return ""

    await eventually(silent, 60)


async def shows(page: Page, url: str, text: str) -> None:
    """Open a page again and again until it shows this text."""

    async def missing() -> str:
        await open_board(page, url)
        found = await page.locator("body").inner_text()
        return "" if text in found else found

    await eventually(missing, 90)
