"""The real Chromium of the board's tests."""

from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize

from tests.board.scene import OPERATOR_TOKEN, OWN_TOKEN


def log_in(page: Page, url: str, to: str = "/board") -> None:
    page.goto(f"{url}/board/login?next={to}")
    page.get_by_label("Token").fill(OPERATOR_TOKEN)
    page.get_by_label("Your name").fill("jane")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{url}{to}")


def context(
    browser: Browser,
    scheme: str = "light",
    width: int = 1280,
    *,
    of: str = "",
    **more: Any,
) -> BrowserContext:
    """`of`: the URL of a board without a token, into which the context comes with a ticket."""
    size: ViewportSize = {"width": width, "height": 900}
    look: dict[str, Any] = {
        "color_scheme": scheme,
        "viewport": size,
        "timezone_id": "UTC",
        "locale": "en-GB",
        **more,
    }
    made = browser.new_context(**look)
    made.set_default_timeout(60_000)
    if of:
        bearer = {"authorization": f"Bearer {OWN_TOKEN}"}
        ticket = made.request.post(f"{of}/board/ticket", headers=bearer).json()
        assert made.request.get(f"{of}{ticket['path']}").ok
    return made
