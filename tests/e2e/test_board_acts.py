"""An operator pauses and resumes a lane in the browser, on a real Kafka with a worker and a board."""

import httpx
import pytest
from playwright.async_api import Page, async_playwright, expect

from stream_app.dev.kafka import Broker
from tests.board.serving import chromium
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_gateway import until_ready

pytestmark = pytest.mark.timeout(300)
_TOKEN = "a token for people who act: 51d2e9c4"
_WITHIN_MS = 60_000


@pytest.mark.slow
async def test_pause_and_resume_a_lane_in_the_browser(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPERATOR_TOKEN", _TOKEN)
    line = Pipeline(kafka.bootstrap, namespace, 1, partitions=2, board='operator_token_env = "OPERATOR_TOKEN"')
    async with line, async_playwright() as playwright:
        board = line.start("board")
        line.start("worker")
        await line.publish(line.leads(3))
        await line.until_over(3, 60)
        async with httpx.AsyncClient(base_url=line.settings.board_url, timeout=60) as client:
            await until_ready(client, 60)
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = await browser.new_page()
        page.set_default_timeout(_WITHIN_MS)
        await log_in(page, line.settings.board_url or "")
        await command(page, f"{line.settings.board_url}/board/lanes/w0", "Pause", "Pause the lane", "the table moves")
        await expect(page.locator(".answer")).to_contain_text("leads wait in Kafka until", timeout=_WITHIN_MS)

        await line.publish([line.lead(number, "w0") for number in range(3, 13)])
        await line.until(lambda: line.last()["held_paused"] >= 1, 60, "the worker obeys")
        sent = line.summary()["leads"]
        assert len(sent) == 3, "no POST of a lead that was published after the pause"

        await page.goto(f"{line.settings.board_url}/board/audit")
        row = page.locator("tr", has_text="pause")
        await expect(row).to_contain_text("jane: the table moves")
        await expect(row).to_contain_text("applied")
        assert len(line.summary()["leads"]) == 3

        await command(page, f"{line.settings.board_url}/board/lanes/w0", "Resume", "Resume the lane", "it has moved")
        await expect(page.locator(".answer")).to_contain_text("resumed: lifted the pause", timeout=_WITHIN_MS)
        await line.until_over(13, 60)
        assert sorted(line.summary()["leads"].values()) == [1] * 13
        await browser.close()
        assert await line.stop(board) == 0
        log = line.logs[board.pid].read_text()
        assert "board_login" in log
        assert _TOKEN not in log


async def log_in(page: Page, url: str) -> None:
    await page.goto(f"{url}/board/login")
    await page.get_by_label("Token").fill(_TOKEN)
    await page.get_by_label("Your name").fill("jane")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("button", name="Log out")).to_be_visible()


async def command(page: Page, url: str, link: str, button: str, why: str) -> None:
    """Give a command on the page of a lane; returns on the page that follows it. That page refreshes itself."""
    await page.goto(url)
    await page.get_by_role("group", name="Commands").get_by_role("link", name=link, exact=True).click()
    await page.get_by_label("Why").fill(why)
    await page.get_by_role("button", name=button).click()
    await page.wait_for_url("**?command=c-*")
